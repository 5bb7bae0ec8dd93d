SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO ?= go
# Kubernetes' metrics library wants vX.Y.Z in front.
VERSION ?= v0.1.0-$(shell git describe --always --dirty 2>/dev/null || echo dev)
STAMP := -X k8s.io/component-base/version.gitVersion=$(VERSION)
# A link without symbols and paths: the same input gives the same program.
LINK := -s -w $(STAMP)
REGISTRY ?= ghcr.io/metallb/cloud-provider-metallb
FUZZTIME ?= 60s

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## static programs in bin/
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LINK)' -o bin/ ./cmd/...

images: ## OCI archives of both programs for amd64 and arm64 in bin/images
	cd release && $(GO) run ./images --version $(VERSION) --out $(CURDIR)/bin/images

sbom: ## make images, with what is in each program, bin/images/*.cdx.json
	cd release && $(GO) run ./images --version $(VERSION) --out $(CURDIR)/bin/images --sbom

push: ## what is in bin/images, and the chart, to REGISTRY under VERSION; their digests to bin/images/digests.txt
	release/push $(VERSION) $(REGISTRY)

helm: ## Helm in bin/, in the version that the chart is tested with
	cd release && CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(CURDIR)/bin/ helm.sh/helm/v4/cmd/helm

manifests: ## manifests/*.yaml once more, from the chart
	cd release && $(GO) test -count=1 ./chart -run Manifests -update

demo: build ## the whole story against a real Kubernetes control plane and a router; no root
	@cd cmd/lab && $(GO) run . demo

lab: build ## the same, kept up; prints a KUBECONFIG
	@cd cmd/lab && $(GO) run . up

lab-datacentre: build routers ## nodes, routers and a client in network namespaces, with real traffic, kept up; root only
	@cd cmd/lab && $(GO) run . datacentre

# Go's race detector needs a C compiler.
compiler:
	@command -v "$$($(GO) env CC)" >/dev/null || { apt-get update -q && apt-get install -y -q gcc libc6-dev; }

# The lab starts routers and containerd of its own: those that Debian's packages would start are kept from it. Without root none can
# be had, and the tests that need them say so.
routers: ## FRR, BIRD, exabgp, nft, curl and containerd from Debian, which the lab's networks need; root only
	@[ "$$(id -u)" = 0 ] || { echo 'make routers: not root, so nothing was installed'; exit 0; }; \
	for tool in ip bird birdc vtysh /usr/lib/frr/bgpd exabgp nft curl containerd runc /usr/lib/cni/ptp; do \
	  command -v $$tool >/dev/null || missing=1; \
	done; \
	[ -n "$${missing:-}" ] || exit 0; \
	policy=/usr/sbin/policy-rc.d; \
	[ -e $$policy ] || { trap "rm -f $$policy" EXIT; printf '#!/bin/sh\nexit 101\n' >$$policy; chmod 755 $$policy; }; \
	apt-get update -q; \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
	  iproute2 bird2 frr exabgp nftables curl containerd runc containernetworking-plugins

check: compiler ## vet, lint and unit tests with the race detector: the inner loop
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) mod tidy -diff
	$(GO) test -race ./...

# -count=1, because Go would take the results of an earlier run although files outside of this module have changed.
check-release: ## the chart, the images, the alerts and the dashboard
	cd release && $(GO) vet ./... && $(GO) mod tidy -diff && $(GO) test -count=1 -timeout 60m ./...

# Our programs run with the race detector. The tests do not: GoBGP's server, which is the router in them, has data races.
e2e: compiler routers ## the lab's tests: real kube-apiserver, etcd, controllers, routers
	$(GO) build -race -ldflags '$(STAMP)' -o bin/race/ ./cmd/...
	cd cmd/lab && $(GO) vet ./... && $(GO) mod tidy -diff
	rm -rf bin/report
	cd cmd/lab && LAB_REPORT=$(CURDIR)/bin/report LAB_BIN=$(CURDIR)/bin/race $(GO) test -count=1 -timeout 45m ./...
	@cat bin/report/failures.txt bin/report/permissions.txt 2>/dev/null || echo 'no tables: the lab had no networks'

e2e-long: compiler ## the lab's random history with 2,000 steps, and 100 shuffles of one input
	$(GO) build -race -ldflags '$(STAMP)' -o bin/race/ ./cmd/...
	cd cmd/lab && LAB_STEPS=2000 LAB_BIN=$(CURDIR)/bin/race $(GO) test -count=1 -timeout 80m -v -run 'TestARandomHistory|TestTheEnd' ./loopback

test: ## everything: check, check-release, then e2e, with the time that each took
	@for stage in check check-release e2e; do \
	  began=$$SECONDS; $(MAKE) --no-print-directory $$stage; echo "=== make $$stage took $$((SECONDS - began)) s"; \
	done

bench: ## benchmarks of the hot paths
	$(GO) test -run '^$$' -bench . -benchmem ./...

fuzz: ## every fuzz target for FUZZTIME (60s)
	@for package in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
	    echo "== $$package $$target"; \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 2s $$package; \
	  done; \
	done

fmt: ## format the code
	gofmt -w .

.PHONY: help compiler routers build images sbom push helm manifests demo lab lab-datacentre check check-release e2e e2e-long test bench fuzz fmt
