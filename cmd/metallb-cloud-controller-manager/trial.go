package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/metallb/cloud-provider-metallb/loadbalancer"
	"github.com/metallb/cloud-provider-metallb/speaker/report"
)

// trialService is the name of the Service that a trial makes and deletes. One that an earlier trial left is deleted first.
const trialService = "metallb-test"

// A trial uses an installation as its users do.
type trial struct {
	installation
	client   kubernetes.Interface
	speakers bool
}

func (t trial) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	if t.speakers {
		if err := t.until(ctx, "all BGP sessions to be up", t.sessions); err != nil {
			return err
		}
	}
	return t.address(ctx)
}

// until asks once a second until there is nothing in the way.
func (t trial) until(ctx context.Context, what string, look func(context.Context) (done string, err error)) error {
	var last error
	for {
		done, err := look(ctx)
		if err == nil {
			fmt.Println(done)
			return nil
		}
		if ctx.Err() == nil || last == nil { // what a request says that ran out of time is of no use
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s:\n%w", t.timeout, what, last)
		case <-time.After(time.Second):
		}
	}
}

// sessions asks every speaker for its sessions, as the account that may do nothing but that.
func (t trial) sessions(ctx context.Context) (string, error) {
	pods, err := t.client.CoreV1().Pods(t.namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=metallb,app.kubernetes.io/component=speaker"})
	if err != nil {
		return "", err
	}
	seconds := int64(600) // as short as the API server allows
	token, err := t.client.CoreV1().ServiceAccounts(t.namespace).CreateToken(ctx, "metallb-viewer",
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	var documents []report.Document
	var problems []error
	for i := range pods.Items {
		document, err := told(ctx, &pods.Items[i], token.Status.Token)
		if err != nil {
			problems = append(problems, fmt.Errorf("node %s: its speaker does not answer: %w", pods.Items[i].Spec.NodeName, err))
			continue
		}
		documents = append(documents, document)
	}
	done, err := established(documents)
	return done, errors.Join(append(problems, err)...)
}

// established says how many sessions there are, or which are not up, and why.
func established(documents []report.Document) (done string, err error) {
	var problems []error
	up := 0
	for _, document := range documents {
		for _, problem := range document.Problems {
			problems = append(problems, fmt.Errorf("node %s: %s", document.Node, problem))
		}
		for _, session := range document.Sessions {
			if session.State == "Established" {
				up++
				continue
			}
			why := session.Reason
			if why == "" {
				why = "no attempt has failed yet"
			}
			problems = append(problems, fmt.Errorf("node %s: the session with router %s is %s: %s", document.Node, session.Peer, session.State, why))
		}
	}
	if up == 0 && len(problems) == 0 {
		problems = append(problems, fmt.Errorf("none of %d speakers has a session: do the peers' node-selectors match any node?", len(documents)))
	}
	return fmt.Sprintf("%d BGP sessions of %d speakers are up", up, len(documents)), errors.Join(problems...)
}

// told asks one speaker for what it has told its routers.
func told(ctx context.Context, pod *corev1.Pod, token string) (document report.Document, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	url := "https://" + net.JoinHostPort(pod.Status.PodIP, speakerPort(pod)) + report.Path
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return document, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	// A speaker makes its certificate itself. What it is shown is good for its routes only, and not for long.
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12},
	}}
	answer, err := client.Do(request)
	if err != nil {
		return document, err
	}
	defer func() { _ = answer.Body.Close() }() // it was only read
	if answer.StatusCode != http.StatusOK {
		return document, fmt.Errorf("%s: %s", url, answer.Status)
	}
	return document, json.NewDecoder(answer.Body).Decode(&document)
}

// address makes a Service, waits until it has an address, deletes it, and waits until the address is free again.
func (t trial) address(ctx context.Context) (err error) {
	services := t.client.CoreV1().Services(t.namespace)
	gone := func(ctx context.Context) error {
		if err := services.Delete(ctx, trialService, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		// The finalizer goes once the address is free.
		return t.until(ctx, "Service "+trialService+" to be gone and its address to be free", func(ctx context.Context) (string, error) {
			_, err := services.Get(ctx, trialService, metav1.GetOptions{})
			switch {
			case apierrors.IsNotFound(err):
				return "no Service " + trialService + " holds an address", nil
			case err != nil:
				return "", err
			}
			return "", errors.New("it is still there: does a controller manager lead?")
		})
	}
	if err := gone(ctx); err != nil {
		return err
	}
	class := loadbalancer.Class
	_, err = services.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: trialService, Labels: map[string]string{"app.kubernetes.io/name": "metallb", "app.kubernetes.io/component": "test"}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: &class,
			Ports: []corev1.ServicePort{{Port: 80}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	err = t.until(ctx, "Service "+trialService+" to get an address", func(ctx context.Context) (string, error) {
		svc, err := services.Get(ctx, trialService, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		if len(svc.Status.LoadBalancer.Ingress) > 0 {
			return fmt.Sprintf("Service %s got address %s", trialService, svc.Status.LoadBalancer.Ingress[0].IP), nil
		}
		return "", t.why(ctx)
	})
	// Also when the time is over.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	return errors.Join(err, gone(ctx))
}

// why is what the events say of the Service.
func (t trial) why(ctx context.Context) error {
	events, err := t.client.CoreV1().Events(t.namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + trialService})
	if err != nil {
		return err
	}
	var lines []string
	for _, event := range events.Items {
		lines = append(lines, event.Message)
	}
	if lines == nil {
		lines = []string{"it has no address, and no event says why: does a controller manager lead?"}
	}
	return errors.New(strings.Join(lines, "\n"))
}
