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
# One way of compiling for programs, lab, tests and tools: Go's cache holds each package once, and once more for the race detector,
# which needs C.
export CGO_ENABLED := 0
export GOFLAGS := $(shell $(GO) env GOFLAGS) -trimpath
RACE := CGO_ENABLED=1 $(GO)
# Compilers spend a third of their time on collecting garbage: let them have memory instead. What they compile runs without this.
COMPILE := GOGC=400 GOMEMLIMIT=2GiB
RUN := -exec 'env -u GOGC -u GOMEMLIMIT'

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## static programs in bin/
	$(COMPILE) $(GO) build -ldflags '$(LINK)' -o bin/ ./cmd/...

plugin: ## kubectl-metallb for this machine in bin/
	$(COMPILE) $(GO) build -ldflags '$(LINK)' -o bin/ ./cmd/kubectl-metallb

plugin-archives: ## kubectl-metallb for Linux, macOS and Windows on amd64 and arm64, and its Krew manifest, in bin/plugin
	cd release && $(GO) run ./plugin --version $(VERSION) --out '$(CURDIR)/bin/plugin'

images: ## OCI archives of both programs for amd64 and arm64 in bin/images
	cd release && $(GO) run ./images --version $(VERSION) --out '$(CURDIR)/bin/images'

sbom: ## make images, with what is in each program, bin/images/*.cdx.json
	cd release && $(GO) run ./images --version $(VERSION) --out '$(CURDIR)/bin/images' --sbom

push: ## what is in bin/images, and the chart, to REGISTRY under VERSION; their digests to bin/images/digests.txt
	release/push $(VERSION) $(REGISTRY)

helm: ## Helm in bin/, in the version that the chart is tested with
	cd release && $(GO) build -ldflags '-s -w' -o '$(CURDIR)/bin/' helm.sh/helm/v4/cmd/helm

manifests: ## manifests/*.yaml once more, from the chart
	cd release && $(GO) test -count=1 ./chart -run Manifests -update

# exec, and no go run in between: whoever presses Ctrl-C is answered by the lab alone.
demo: lab-programs ## the whole story against a real Kubernetes control plane and a router; no root
	@exec bin/lab demo

lab: lab-programs ## the same, kept up; prints a KUBECONFIG
	@exec bin/lab up

lab-datacentre: lab-programs routers ## nodes, routers and a client in network namespaces, with real traffic, kept up; root only
	@exec bin/lab datacentre

# Only what the lab starts: the others would be linked for nothing.
lab-programs:
	@$(COMPILE) cmd/lab/compile 'our programs (1 of 2)' . -ldflags '$(LINK)' -o bin/ ./cmd/metallb-cloud-controller-manager ./cmd/metallb-speaker
	@$(COMPILE) cmd/lab/compile 'the lab (2 of 2)' cmd/lab -ldflags '$(LINK)' -o ../../bin/ .

# Go's race detector needs a C compiler.
compiler:
	@command -v "$$($(GO) env CC)" >/dev/null || cmd/lab/install gcc libc6-dev

# Without root none can be had, and the tests that need them say so.
routers: ## FRR, BIRD, exabgp, nft, curl and containerd from Debian, which the lab's networks need; root only
	@[ "$$(id -u)" = 0 ] || { echo 'make routers: not root, so nothing was installed'; exit 0; }; \
	for tool in ip bird birdc vtysh /usr/lib/frr/bgpd exabgp nft curl containerd runc /usr/lib/cni/ptp; do \
	  command -v $$tool >/dev/null || missing=1; \
	done; \
	[ -z "$${missing:-}" ] || cmd/lab/install iproute2 bird2 frr exabgp nftables curl containerd runc containernetworking-plugins

# Chromium is larger than everything else here together: only one target needs it.
chromium:
	@command -v chromium >/dev/null || cmd/lab/install chromium fonts-dejavu-core

ui-browser: build chromium ## the page of kubectl metallb ui in Debian's Chromium; PICTURES=FOLDER keeps two pictures of it
	cd cmd/lab && $(COMPILE) $(GO) vet -tags browser ./browser
	cd cmd/lab && $(if $(PICTURES),PICTURES='$(abspath $(PICTURES))') LAB_BIN='$(CURDIR)/bin' $(GO) test -tags browser -count=1 -timeout 20m -v ./browser

# The domain starts no goroutines, as a test sees to: the race detector would find nothing in it, and take three minutes.
check: compiler ## vet, lint and unit tests with the race detector: the inner loop
	$(COMPILE) $(GO) vet ./...
	$(COMPILE) $(GO) tool staticcheck ./...
	$(GO) mod tidy -diff
	$(COMPILE) $(GO) test $(RUN) ./loadbalancer
	$(COMPILE) $(RACE) test -race $(RUN) $$($(GO) list ./... | grep -v '/loadbalancer$$')

# -count=1, because Go would take the results of an earlier run although files outside of this module have changed.
check-release: ## the chart, the images, the alerts and the dashboard
	cd release && $(COMPILE) $(GO) vet ./... && $(GO) mod tidy -diff && $(COMPILE) $(GO) test -count=1 -timeout 60m ./...

# Our programs run with the race detector. The tests do not: GoBGP's server, which is the router in them, has data races.
race: compiler
	$(COMPILE) $(RACE) build -race -ldflags '$(STAMP)' -o bin/race/ ./cmd/...

# make e2e KUBERNETES=v1.31.14 builds that version, and runs what needs no network of its own against it.
e2e: export LAB_KUBERNETES = $(KUBERNETES)
e2e: race routers ## the lab's tests: real kube-apiserver, etcd, controllers, routers; of another Kubernetes with KUBERNETES=v1.31.14
	cd cmd/lab && $(COMPILE) $(GO) vet ./... && $(GO) mod tidy -diff
	$(COMPILE) cmd/lab/e2e '$(CURDIR)/bin/race'

e2e-long: race routers ## the lab's random history with 2,000 steps, 100 shuffles of one input, and BFD over one hop and two, IPv4 and IPv6
	cd cmd/lab && LAB_STEPS=2000 LAB_BIN='$(CURDIR)/bin/race' $(GO) test -count=1 -timeout 80m -v -run 'TestARandomHistory|TestTheEnd' ./loopback
	cd cmd/lab && LAB_SCENES=all LAB_BIN='$(CURDIR)/bin/race' $(GO) test -count=1 -timeout 40m -v ./bfd

test: ## everything: check, check-release, then e2e, with the time that each took
	@for stage in check check-release e2e; do \
	  began=$$SECONDS; $(MAKE) --no-print-directory $$stage; echo "=== make $$stage took $$((SECONDS - began)) s"; \
	done

fresh: ## make demo and make test in a clean clone with empty caches and, as root, without what they install; how long each part took
	cmd/lab/fresh

bench: ## benchmarks of the hot paths
	$(GO) test -run '^$$' -bench . -benchmem ./...

bench-controller: build ## whole controller managers: a burst beside a reference, a takeover, and a leader under load for ten minutes
	cd cmd/lab && $(GO) test -run '^$$' -timeout 60m -v -bench 'ABurst' -benchtime 3x ./loopback
	cd cmd/lab && $(GO) test -run '^$$' -timeout 60m -v -bench 'Takeover' -benchtime 10x ./loopback
	cd cmd/lab && $(GO) test -run '^$$' -timeout 60m -v -bench 'ALeaderUnderLoad' -benchtime 10x ./loopback

bench-plugin: ## what kubectl metallb status costs before a real API server with 10,000 Services, 30,000 endpoints and 100 nodes
	cd cmd/lab && $(GO) test -run '^$$' -timeout 60m -v -bench 'StatusOfALargeCluster' -benchtime 5x ./loopback

bench-lab: build routers ## what a speaker costs before a real API server, against a process that only watches; from status to route in a BIRD
	cd cmd/lab && $(COMPILE) $(GO) run $(RUN) ./bench '$(CURDIR)/bin/metallb-speaker'
	cd cmd/lab && $(GO) test -run '^$$' -timeout 60m -v -bench 'FromStatusToRoute' -benchtime 1x ./datacentre

plan-long: ## what kubectl metallb plan says of 200 random edits, and what then happens
	PLAN_RUNS=200 $(GO) test -count=1 -v -run 'APlanIsRight' ./cmd/kubectl-metallb/inspect

fuzz: ## every fuzz target for FUZZTIME (60s)
	@for package in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
	    echo "== $$package $$target"; \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 2s $$package; \
	  done; \
	done

fmt: ## format the code
	gofmt -w .

.PHONY: lab-programs help compiler routers chromium ui-browser race build plugin plugin-archives plan-long images sbom push helm manifests demo lab lab-datacentre check check-release e2e e2e-long test fresh bench bench-controller bench-plugin bench-lab fuzz fmt
