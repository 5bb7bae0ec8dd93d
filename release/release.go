// Package release is a module of its own for what a release is made of besides the programs: their images, the Helm chart and the plain
// manifests made from it, alerts and dashboards. It holds the tools that make these (Helm, crane, a linter of workflows, a writer of
// bills of materials), each pinned in go.mod, so that neither the programs nor the lab depend on them.
package release
