package datacentre

import (
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/metallb/cloud-provider-metallb/cmd/lab/network"
	"github.com/metallb/cloud-provider-metallb/cmd/lab/suite"
)

// restartTime is for how long routers keep the routes of a speaker that is gone without a word.
const restartTime = 60 * time.Second

// twoPeers is a configuration with FRR and BIRD of two ASes.
func twoPeers(hold time.Duration) string {
	peer := func(addr netip.Addr, asn int) string {
		return fmt.Sprintf("- {peer-address: %s, peer-asn: %d, my-asn: %d, hold-time: %s, connect-time: 1s, graceful-restart: {restart-time: %s}}\n",
			addr, asn, clusterASN, hold, restartTime)
	}
	return "peers:\n" + peer(frrAddr, 100) + peer(birdAddr, 200) + pools("")
}

// A speaker that is replaced or crashes leaves no trace in routers; one that stops for good withdraws; a node that is gone without a
// word is gone with the hold time.
func TestRoutersKeepWhatASpeakerLeavesAndForgetWhatANodeLeaves(t *testing.T) {
	t.Parallel()
	suite.Heavy(t)
	s := build(t)
	ctx := t.Context()
	frr, bird := s.frr(t, "frr", frrAddr, 100), s.bird(t, "bird", birdAddr, 200)
	routers := []network.Router{frr, bird}
	want := s.exposeMany(t, 5000)
	const hold = 90 * time.Second
	must(t, s.Admit(ctx, twoPeers(hold)))
	daemonSet := s.daemonSet(t)

	pod := s.pod(t, daemonSet, "speaker-0")
	speaker := s.speak(t, pod...)
	for _, r := range routers {
		sends(t, r, want)
	}
	recorders := record(t, routers...)
	restart := func(what string, end func()) {
		t.Helper()
		before := map[network.Router]network.Session{}
		for _, r := range routers {
			before[r] = session(t, r)
		}
		end()
		ended(t, speaker)
		speaker = s.speak(t, pod...)
		began := time.Now()
		for _, r := range routers {
			upAnew(t, r, before[r])
		}
		quiet(t, recorders, what)
		t.Logf("%s: no route moved; back with both routers after %v", what, time.Since(began).Round(time.Millisecond))
	}
	for i := range 3 {
		restart("replaced", func() {
			must(t, s.API.CoreV1().Pods("metallb-system").Delete(ctx, fmt.Sprintf("speaker-%d", i), metav1.DeleteOptions{}))
			pod = s.pod(t, daemonSet, fmt.Sprintf("speaker-%d", i+1))
			must(t, speaker.Signal(syscall.SIGTERM))
		})
	}
	for range 3 {
		restart("killed", speaker.Kill)
	}
	for _, r := range routers {
		sends(t, r, want)
	}

	// Its Pod is not being deleted: nobody will take its place.
	asked := time.Now()
	must(t, speaker.Signal(syscall.SIGTERM))
	for _, r := range routers {
		sends(t, r, nil)
		took := last(t, recorders[r], 0).Sub(asked)
		t.Logf("stopped: %s forgot %d routes after %v, %.4f of the hold time", r, len(want), took.Round(time.Millisecond), float64(took)/float64(hold))
		if took > hold/3 {
			t.Errorf("%s waited %v for a speaker that had said goodbye", r, took)
		}
	}
	ended(t, speaker)

	const short = 9 * time.Second
	must(t, s.Admit(ctx, twoPeers(short)))
	speaker = s.speak(t, pod...)
	for _, death := range []struct {
		how       string
		die, live func() error
	}{
		{
			"its cable was pulled", func() error { return s.lan.Pull(s.node.Host) }, func() error { return s.lan.Replug(s.node.Host) },
		},
		{
			"it froze", func() error { return speaker.Signal(syscall.SIGSTOP) }, func() error { return speaker.Signal(syscall.SIGCONT) },
		},
	} {
		seen := map[network.Router]int{}
		for _, r := range routers {
			sends(t, r, want)
			seen[r] = len(events(t, recorders[r], 0))
		}
		died := time.Now()
		must(t, death.die())
		for _, r := range routers {
			sends(t, r, nil)
			first, last := events(t, recorders[r], seen[r])[0].At.Sub(died), last(t, recorders[r], seen[r]).Sub(died)
			t.Logf("%s: %s forgot the first route after %.2f, the last of %d after %.2f hold times", death.how, r,
				float64(first)/float64(short), len(want), float64(last)/float64(short))
			// It had heard the node a third of the hold time before, at most.
			if first < short/2 {
				t.Errorf("%s: %s did not wait for the hold time: %v", death.how, r, first)
			}
			if last > restartTime {
				t.Errorf("%s: %s kept routes of a node that is gone as if it were to restart: for %v", death.how, r, last)
			}
		}
		must(t, death.live())
	}
	for _, r := range routers {
		sends(t, r, want)
	}
}

// last is when the last event was.
func last(t *testing.T, r *network.Recorder, from int) time.Time {
	t.Helper()
	all := events(t, r, from)
	if len(all) == 0 {
		t.Fatal("nothing happened")
	}
	return all[len(all)-1].At
}

var speakerLabels = map[string]string{"app": "metallb-speaker"}

func (s *site) daemonSet(t *testing.T) *appsv1.DaemonSet {
	t.Helper()
	return made(s.API.AppsV1().DaemonSets("metallb-system").Create(t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "metallb-speaker"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: speakerLabels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: speakerLabels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "speaker", Image: "none"}}},
			},
		},
	}, metav1.CreateOptions{}))(t)
}

// pod creates the Pod of a speaker, and returns what tells the speaker which it is. Without a kubelet, one that is deleted stays.
func (s *site) pod(t *testing.T, daemonSet *appsv1.DaemonSet, name string) []string {
	t.Helper()
	grace := int64(3600)
	made(s.API.CoreV1().Pods("metallb-system").Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: speakerLabels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(daemonSet, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))},
		},
		Spec: corev1.PodSpec{
			NodeName: s.node.Name, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "speaker", Image: "none"}},
		},
	}, metav1.CreateOptions{}))(t)
	return []string{"POD_NAMESPACE=metallb-system", "POD_NAME=" + name}
}
