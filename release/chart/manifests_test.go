package chart

import (
	"regexp"
	"testing"
)

const namespace = `apiVersion: v1
kind: Namespace
metadata:
  name: metallb-system
  labels:
    app.kubernetes.io/name: metallb
    pod-security.kubernetes.io/enforce: privileged  # for the speakers, which use their node's network
`

func TestManifestsAreMadeFromTheChart(t *testing.T) {
	for path, args := range map[string][]string{"rbac.yaml": {"--show-only=templates/rbac.yaml"}, "metallb.yaml": nil} {
		out, err := render(t, helm, "", append(args, "--namespace=metallb-system", "--no-hooks")...)
		if err != nil {
			t.Fatal(err)
		}
		out = regexp.MustCompile(`(?m)^# Source: .*\n`).ReplaceAllString(tight("\n"+out), "")
		keep(t, "../../manifests/"+path, "# Made from charts/metallb by make manifests: change it there.\n"+namespace+out[1:])
	}
}
