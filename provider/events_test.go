package provider

import (
	"bytes"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/klog/v2/textlogger"
)

func TestNormalNoiseIsDroppedAndEverythingElsePasses(t *testing.T) {
	tests := []struct {
		kind, reason string
		passes       bool
	}{
		{"Normal", "EnsuringLoadBalancer", false},
		{"Normal", "EnsuredLoadBalancer", false},
		{"Normal", "DeletingLoadBalancer", false},
		{"Normal", "DeletedLoadBalancer", false},
		{"Normal", "UpdatedLoadBalancer", false},
		{"Normal", "LoadBalancerIP", true},
		{"Warning", "SyncLoadBalancerFailed", true},
		{"Warning", "UnAvailableLoadBalancer", true},
		{"Warning", "EnsuredLoadBalancer", true}, // nobody writes it; but a warning is never noise
	}
	for _, test := range tests {
		t.Run(test.kind+" "+test.reason, func(t *testing.T) {
			main, events := fake.NewClientset(), fake.NewClientset()
			event := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web.1"}, Type: test.kind, Reason: test.reason}
			// What the recorder calls.
			sink := typedcorev1.EventSinkImpl{Interface: quietClient{main, events, nil}.CoreV1().Events("")}
			if got, err := sink.Create(event); err != nil || got.Reason != event.Reason {
				t.Errorf("create: %v, %v", got, err)
			}
			if got, err := sink.Patch(event, []byte(`{"count":2}`)); err != nil || got.Reason != event.Reason {
				t.Errorf("patch: %v, %v", got, err)
			}
			if got, err := sink.Update(event); err != nil || got.Reason != event.Reason {
				t.Errorf("update: %v, %v", got, err)
			}
			var verbs []string
			for _, a := range events.Actions() {
				verbs = append(verbs, a.GetVerb())
			}
			want := ""
			if test.passes {
				want = "create patch update"
			}
			if got := strings.Join(verbs, " "); got != want {
				t.Errorf("the API server sees %q, want %q", got, want)
			}
			if n := len(main.Actions()); n != 0 {
				t.Errorf("%d requests of the other client: an event would delay a status", n)
			}
		})
	}
}

func TestOnlyEventsGoThroughTheOtherClient(t *testing.T) {
	main, events := fake.NewClientset(), fake.NewClientset()
	c := quietClient{main, events, nil}
	if _, err := c.CoreV1().Services("shop").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(main.Actions()) != 1 || len(events.Actions()) != 0 {
		t.Errorf("%v by the main client, %v by that for events", main.Actions(), events.Actions())
	}
}

func TestTheLogDoesNotRepeatEvents(t *testing.T) {
	var said bytes.Buffer
	logger := quiet(textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(&said))))
	logger.V(0).Info("Event occurred", "reason", "EnsuringLoadBalancer")
	logger.Info("Something else")
	if text := said.String(); strings.Contains(text, "Event occurred") || !strings.Contains(text, `events_test.go`) || !strings.Contains(text, "Something else") {
		t.Errorf("logged %s", text)
	}
}
