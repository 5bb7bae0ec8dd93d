package agent

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	logsapi "k8s.io/component-base/logs/api/v1"
)

func TestAProgramRunsWhenItKnowsItsNode(t *testing.T) {
	for _, test := range []struct {
		name, env string
		args      []string
		want      string // NODE NAMESPACE/CONFIG PORT, or what is wrong
	}{
		{name: "by the environment", env: "a", want: "a metallb-system/config 7475"},
		{name: "by its flags", env: "a", args: []string{"--node-name=b", "--config-namespace=lb", "--config-name=mine", "--secure-port=1"}, want: "b lb/mine 1"},
		{name: "not at all", want: "--node-name is missing: name the Node that this program runs on, or set NODE_NAME"},
		{name: "with an argument", env: "a", args: []string{"b"}, want: `unknown command "b" for "metallb-x"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("NODE_NAME", test.env)
			if err := logsapi.ResetForTest(nil); err != nil { // it is applied once in a process
				t.Fatal(err)
			}
			var p Program
			got := "it has not run"
			command := p.Command("metallb-x", "Does x.", 7475, func() error {
				got = strings.Join([]string{p.NodeName, p.Namespace + "/" + p.ConfigName, fmt.Sprint(p.Port)}, " ")
				return nil
			})
			command.SetArgs(test.args)
			if err := command.ExecuteContext(t.Context()); err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// What cannot be served ends the program, and nothing of it is served until then.
func TestNothingIsAnsweredWhereNotAllCanBe(t *testing.T) {
	server, err := NewAPI(&rest.Config{Host: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	probes := free.Addr().(*net.TCPAddr).Port
	free.Close()
	p := Program{Serving: Serving{Address: "127.0.0.1", Port: taken.Addr().(*net.TCPAddr).Port, ProbePort: probes}}
	if _, err := p.Answer(server, func() Health { return Health{} }, nil); err == nil || !strings.Contains(err.Error(), "--secure-port") {
		t.Errorf("the port is taken: %v", err)
	}
	again, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", probes))
	if err != nil {
		t.Fatalf("probes are still answered: %v", err)
	}
	again.Close()
}
