package datacentre

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/kubernetes"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
)

// kubelets is the group that Kubernetes knows kubelets by.
const kubelets = "system:nodes"

func kubeletUser(node string) string { return "system:node:" + node }

// The images are one program. It is on no registry.
const (
	podImage   = "lab.invalid/podserver:1"
	pauseImage = "lab.invalid/pause:1"
	// What the tutorial has users run. No registry is reached from here, so it is the same program, which answers on that port.
	webImage = "docker.io/library/nginx:1.29"
)

// secludeScript is the first process of a node that runs pods by itself, alone in process and mount namespaces. It goes where containers
// and machine cannot meet, and becomes kubeletScript there. Its arguments are the namespace's ID and what follows: that script, a folder
// with the configuration, and kubelet's command line.
//
// Everything that containerd, kubelet and network plugins keep is where they keep it on any node, but in memory, and seen only here.
// Kubelet sets kernel parameters that are the whole machine's: here it gets copies of them. What it believes to be the root of all control
// groups is one that is called as the namespace, so that the network's janitor finds it.
const secludeScript = `
set -eu
id=$0
mount --make-rprivate /
mount -t proc proc /proc
for dir in /run /var/lib /var/log; do
	mount -t tmpfs tmpfs $dir
done
for parameter in vm/{overcommit_memory,panic_on_oom} kernel/{panic,panic_on_oops} kernel/keys/{root_maxkeys,root_maxbytes}; do
	copy=/run/parameters/$parameter
	mkdir -p "$(dirname $copy)"
	cat /proc/sys/$parameter >$copy
	mount --bind $copy /proc/sys/$parameter
done
for groups in /sys/fs/cgroup /sys/fs/cgroup/*; do # of version 2, or each of version 1
	if [ ! -e $groups/cgroup.procs ] || [ -L $groups ]; then
		continue
	fi
	mkdir -p $groups/$id
	if [ $groups = /sys/fs/cgroup/cpuset ]; then # where a new group has nothing to run on
		for file in cpuset.cpus cpuset.mems; do
			cat $groups/$file >$groups/$id/$file
		done
	fi
	echo $$ >$groups/$id/cgroup.procs
	mount --bind $groups/$id $groups
	if [ $groups = /sys/fs/cgroup ]; then
		break
	fi
done
exec unshare --cgroup -- bash -c "$@"
`

// kubeletScript runs containerd and kubelet until one of them ends, or a SIGTERM comes. With it the kernel ends all that is in its
// process namespace: them, and all containers.
const kubeletScript = `
set -eu
trap 'exit 0' TERM
dir=$0
if [ -e /sys/fs/cgroup/cgroup.procs ]; then # version 2: a group has groups or processes
	mkdir -p /sys/fs/cgroup/node
	echo $$ >/sys/fs/cgroup/node/cgroup.procs
fi
containerd --config "$dir/containerd.toml" &
until ctr version >/dev/null 2>&1; do
	kill -0 $!
	sleep 0.1
done
for archive in "$dir"/images/*.tar; do
	ctr --namespace k8s.io images import "$archive"
done
"$@" &
wait -n
exit 1
`

// Neither of the programs shall make the folders for plugins that it makes elsewhere.
const containerdConfig = `version = 2
disabled_plugins = ["io.containerd.internal.v1.opt"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + pauseImage + `"
  restrict_oom_score_adj = true  # to what this machine allows
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "` + network.CNI + `"
    conf_dir = %q
`

// The machine may itself be somebody's container, with control groups of version 1: a node limits nothing, and reserves nothing.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}  # nobody but this hall reaches it
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
localStorageCapacityIsolation: false
volumePluginDir: /var/lib/kubelet/volume-plugins
resolvConf: ""
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
`

// podRange is where a kubelet's pods have their addresses: in the worker's network, but never an address of a pod that the lab runs.
func (w *Worker) podRange() (v4, v6 netip.Prefix) {
	of := w.pod(0)
	return netip.PrefixFrom(w.pod(128).v4, 25), netip.MustParsePrefix(of.v6.String() + "1:0/112")
}

// networkPlugins is the configuration by which pods get addresses of both IP versions, and a cable to the node.
func (w *Worker) networkPlugins() ([]byte, error) {
	type object = map[string]any
	v4, v6 := w.podRange()
	return json.Marshal(object{
		"cniVersion": "1.0.0", "name": "lab",
		"plugins": []object{{
			"type": "ptp",
			"ipam": object{
				"type":   "host-local",
				"ranges": [][]object{{{"subnet": v4}}, {{"subnet": v6}}},
				"routes": []object{{"dst": "0.0.0.0/0"}, {"dst": "::/0"}},
			},
		}},
	})
}

// StartKubelet starts containerd and kubelet on a node that has no pods yet, and returns when kubelet says that the node is ready. From
// then on Pods of this node are objects only: kubelet runs them, see KubeletPod. Their images are that one's, and those of the archives.
func (h *Hall) StartKubelet(ctx context.Context, w *Worker, archives ...string) error {
	if err := network.MissingKubelet(); err != nil {
		return err
	}
	if err := h.bindKubelets(ctx); err != nil {
		return fmt.Errorf("permit kubelets what they do: %w", err)
	}
	kubelet, err := h.build(ctx, kubernetes.Kubelet)
	if err != nil {
		return err
	}
	dir := filepath.Join(h.Network.Dir, "kubelet-"+w.Name)
	plugins, own := filepath.Join(dir, "net.d"), filepath.Join(dir, "images")
	if err := errors.Join(os.MkdirAll(plugins, 0o700), os.MkdirAll(own, 0o700)); err != nil {
		return err
	}
	for i, archive := range archives {
		if err := os.Symlink(archive, filepath.Join(own, fmt.Sprintf("%d.tar", i))); err != nil {
			return err
		}
	}
	images, err := h.images(ctx, dir)
	if err != nil {
		return fmt.Errorf("build the pods' image: %w", err)
	}
	cni, err := w.networkPlugins()
	if err != nil {
		return err
	}
	for name, text := range map[string][]byte{
		"containerd.toml":    fmt.Appendf(nil, containerdConfig, plugins),
		"kubelet.yaml":       []byte(kubeletConfig),
		"net.d/lab.conflist": cni,
		"images/pods.tar":    images,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return err
		}
	}
	w.Kubelet, err = w.Host.Start(kubernetes.Program{
		Name: "kubelet of " + w.Name, Binary: "bash",
		Args: []string{
			"-c", secludeScript, w.Host.ID, kubeletScript, dir,
			kubelet, "--config=" + filepath.Join(dir, "kubelet.yaml"),
			"--kubeconfig=" + h.Cluster.KubeconfigOf(kubeletUser(w.Name)),
			"--hostname-override=" + w.Name, fmt.Sprintf("--node-ip=%s,%s", w.Addrs.v4, w.Addrs.v6),
		},
		Log:   filepath.Join(h.Network.Dir, "kubelet-"+w.Name+".log"),
		Alone: true,
	})
	if err != nil {
		return err
	}
	return w.Kubelet.Until(ctx, "the node is ready", func(ctx context.Context) error {
		node, err := h.API.CoreV1().Nodes().Get(ctx, w.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range node.Status.Conditions {
			// The lab itself has called it ready before, without a reason.
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue && c.Reason == "KubeletReady" {
				return nil
			}
		}
		return fmt.Errorf("its conditions are %v", node.Status.Conditions)
	})
}

// bindKubelets lets kubelets do what the API server's node authorizer would, which this one does not have.
func (h *Hall) bindKubelets(ctx context.Context) error {
	_, err := h.API.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "lab:kubelets"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:node"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: kubelets}},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// images builds our images: a file as `docker save` writes it, and `ctr images import` reads it.
func (h *Hall) images(ctx context.Context, dir string) ([]byte, error) {
	binary, err := thing(ctx, h.root, dir, "podserver")
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	layer, err := pack(file{"podserver", program})
	if err != nil {
		return nil, err
	}
	type object = map[string]any
	files := []file{{"layer.tar", layer}}
	var manifest []object
	for name, argument := range map[string]string{podImage: fmt.Sprintf(":%d", PodPort), webImage: ":80", pauseImage: "wait"} {
		config, err := json.Marshal(object{
			"architecture": runtime.GOARCH, "os": "linux",
			"config": object{"Entrypoint": []string{"/podserver", argument}},
			"rootfs": object{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
		})
		if err != nil {
			return nil, err
		}
		files = append(files, file{fmt.Sprintf("%x.json", sha256.Sum256(config)), config})
		manifest = append(manifest, object{
			"Config": files[len(files)-1].name, "RepoTags": []string{name}, "Layers": []string{"layer.tar"},
		})
	}
	list, err := json.Marshal(manifest)
	if err != nil {
		return nil, err
	}
	return pack(append(files, file{"manifest.json", list})...)
}

// A file of an archive.
type file struct {
	name string
	text []byte
}

func pack(files ...file) ([]byte, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o755, Size: int64(len(f.text))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.text); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return archive.Bytes(), err
}

// KubeletPod is a pod for a node with a kubelet: the object alone. It answers as other pods do, and has a readiness probe.
func KubeletPod(w *Worker, name string, labels map[string]string) *corev1.Pod {
	grace := int64(5)
	self := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: corev1.PodSpec{
			NodeName: w.Name, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "server", Image: podImage, ImagePullPolicy: corev1.PullNever,
				Ports: []corev1.ContainerPort{{ContainerPort: PodPort}},
				Env:   []corev1.EnvVar{{Name: "POD", ValueFrom: self("metadata.name")}, {Name: "NODE", ValueFrom: self("spec.nodeName")}},
				ReadinessProbe: &corev1.Probe{
					PeriodSeconds: 1,
					ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(PodPort)}},
				},
			}},
		},
	}
}
