//go:build tools

// This file keeps Helm v3 in go.mod, for a test. As a tool it would make "go tool helm" ambiguous.
package chart

import _ "helm.sh/helm/v3/cmd/helm"
