package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/service"
)

// A refusal that is there already may be of before the edit that we are asked about: it counts once it has stayed for so long.
const refusalCounts = 5 * time.Second

// ask answers one of the questions about an installation that the chart's hooks ask, and returns the exit code.
func ask(args []string) int {
	ctx, forget := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer forget()
	command := newQuestions()
	command.SetArgs(args)
	if err := command.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// An installation is asked about.
type installation struct {
	kubeconfig, namespace, configName string
	timeout                           time.Duration
}

func newQuestions() *cobra.Command {
	root := &cobra.Command{Use: "metallb-cloud-controller-manager", SilenceUsage: true, SilenceErrors: true}
	root.CompletionOptions.DisableDefaultCmd = true
	in := installation{namespace: "metallb-system", configName: "config", timeout: 2 * time.Minute}
	reaches := func(cmd *cobra.Command) *cobra.Command {
		fs := cmd.Flags()
		fs.StringVar(&in.kubeconfig, "kubeconfig", "", "Path of a kubeconfig file. The default is the Pod's service account.")
		fs.StringVar(&in.namespace, "config-namespace", in.namespace, "Namespace of both ConfigMaps.")
		fs.StringVar(&in.configName, "config-name", in.configName, "Name of the configuration's ConfigMap.")
		fs.DurationVar(&in.timeout, "timeout", in.timeout, "How long to wait at most.")
		return cmd
	}
	var hash string
	verify := reaches(&cobra.Command{
		Use: "verify", Short: "Wait until a text is in force; if it is refused, print its problems and fail", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := in.client()
			if err != nil {
				return err
			}
			return in.verify(cmd.Context(), client, hash)
		},
	})
	verify.Flags().StringVar(&hash, "hash", "", "The first 16 digits of the text's SHA-256.")
	_ = verify.MarkFlagRequired("hash") // it is there
	var speakers bool
	test := reaches(&cobra.Command{
		Use: "test", Short: "Demand that all BGP sessions are up, and that a Service gets an address and gives it back", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := in.client()
			if err != nil {
				return err
			}
			return trial{in, client, speakers}.run(cmd.Context())
		},
	})
	test.Flags().BoolVar(&speakers, "speakers", true, "There are speakers, whose sessions are to be up.")
	root.AddCommand(&cobra.Command{
		Use: "validate FILE", Short: "Print what is wrong with a text, and fail if anything is", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return validate(args[0]) },
	}, verify, test)
	return root
}

func (in installation) client() (kubernetes.Interface, error) {
	config, err := rest.InClusterConfig()
	if in.kubeconfig != "" {
		config, err = clientcmd.BuildConfigFromFlags("", in.kubeconfig)
	}
	if err != nil {
		return nil, err
	}
	config.Timeout = 10 * time.Second
	return kubernetes.NewForConfig(rest.AddUserAgent(config, "installation"))
}

// validate reads a text as the controller manager would, without asking a cluster.
func validate(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if _, _, err := loadbalancer.Parse(text); err != nil {
		return fmt.Errorf("the configuration is refused, and nothing was changed:\n%w", err)
	}
	fmt.Println("the configuration can be read: whether it can be in force, the controller manager decides")
	return nil
}

// verify waits until the text with a hash is in force.
func (in installation) verify(ctx context.Context, client kubernetes.Interface, hash string) error {
	ctx, cancel := context.WithTimeout(ctx, in.timeout)
	defer cancel()
	refused := time.Duration(-1) // for how long it has been
	began := time.Now()
	for {
		admitted, err := client.CoreV1().ConfigMaps(in.namespace).Get(ctx, in.configName+"-admitted", metav1.GetOptions{})
		state, words := pending, ""
		switch {
		case apierrors.IsNotFound(err):
			state, words = in.standing(nil, hash)
		case err != nil:
			words = fmt.Sprintf("ConfigMap %s/%s-admitted cannot be read: %v", in.namespace, in.configName, err)
		default:
			state, words = in.standing(admitted.Data, hash)
		}
		switch {
		case state == inForce:
			fmt.Println(words)
			return nil
		case state != isRefused:
			refused = -1
		case refused < 0:
			refused = time.Since(began)
		case time.Since(began)-refused >= refusalCounts:
			return errors.New(words)
		}
		select {
		case <-ctx.Done():
			if state == isRefused {
				return errors.New(words)
			}
			return fmt.Errorf("after %s, the text %s is not in force: %s", in.timeout, hash, words)
		case <-time.After(time.Second):
		}
	}
}

type state int

const (
	pending state = iota
	inForce
	isRefused
)

// standing says what the admitted copy, nil if there is none, tells of the text with a hash.
func (in installation) standing(admitted map[string]string, hash string) (state, string) {
	stays := "No configuration is in force."
	if at := admitted[service.KeyAdmittedAt]; at != "" {
		stays = fmt.Sprintf("The text %s, admitted at %s, stays in force.", admitted[service.KeyHash], at)
	}
	look := fmt.Sprintf("no controller manager has judged the text yet. Does one run? kubectl get pods,leases --namespace=%s", in.namespace)
	refusal := service.ReadRefusal(admitted[service.KeyRefused])
	switch {
	case refusal != nil && refusal.Hash == hash:
		words := []string{fmt.Sprintf("the configuration is refused: the text %s is not in force. %s", hash, stays)}
		words = append(words, refusal.Problems...)
		for _, service := range refusal.Services {
			words = append(words, "it would cost Service "+service+" its address or its routes")
		}
		return isRefused, strings.Join(words, "\n")
	case admitted[service.KeyHash] == hash:
		return inForce, fmt.Sprintf("the text %s is in force since %s", hash, admitted[service.KeyAdmittedAt])
	case admitted == nil:
		return pending, fmt.Sprintf("there is no ConfigMap %s/%s-admitted: %s", in.namespace, in.configName, look)
	}
	return pending, fmt.Sprintf("%s %s", stays, look)
}

// speakerPort is where a speaker answers, unless its flag --secure-port says otherwise.
func speakerPort(pod *corev1.Pod) string {
	for _, c := range pod.Spec.Containers {
		for _, arg := range c.Args {
			if port, ok := strings.CutPrefix(arg, "--secure-port="); ok {
				return port
			}
		}
	}
	return "7473"
}
