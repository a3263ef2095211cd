# make demo   builds pcapsule and runs the main job on real traffic, in network namespaces of its own
# make test   every test, race detector on, and the linter; installs what it needs (scripts/deps.sh)
# make image  the container image as a tar, without Docker: bin/pcapsule.tar
# make e2e    a real cluster in network namespaces, pcapsule in it, and what may go wrong there; needs root

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)
GO      ?= go
LDFLAGS  = -s -w -X main.version=$(VERSION)

export CGO_ENABLED ?= 0

.PHONY: all build image demo test e2e lint cross bench fuzz clean generate

all: build

build:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/pcapsule ./cmd/pcapsule

# For `docker load`, and `ctr -n k8s.io images import` on a node. The Dockerfile makes the same.
IMAGE ?= pcapsule:dev
image:
	GOOS=linux $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/image/pcapsule ./cmd/pcapsule
	$(GO) run ./scripts/image -binary bin/image/pcapsule -o bin/pcapsule.tar -tag $(IMAGE) -version '$(VERSION)'

demo: build
	scripts/deps.sh demo
	$(GO) run ./scripts/demo bin/pcapsule

test: build lint cross
	scripts/deps.sh test
	@tools/build.sh minio && tools/build.sh versitygw && tools/build.sh helm && tools/build.sh kubernetes kube-apiserver
	CGO_ENABLED=1 $(GO) test -race -timeout 30m ./...

e2e:
	scripts/deps.sh e2e
	$(GO) test -tags e2e -count=1 -timeout 40m -v ./e2e

lint:
	$(GO) vet -tags e2e ./...
	"$$(tools/build.sh golangci-lint)" run --build-tags e2e ./...

# The client commands run where the users sit; agents run on both architectures.
cross:
	GOOS=linux GOARCH=arm64 $(GO) build -o /dev/null ./cmd/pcapsule
	GOOS=darwin GOARCH=arm64 $(GO) build -o /dev/null ./cmd/pcapsule
	GOOS=windows GOARCH=amd64 $(GO) build -o /dev/null ./cmd/pcapsule
	GOOS=darwin GOARCH=arm64 $(GO) vet ./...
	GOOS=windows GOARCH=amd64 $(GO) vet ./...

# Side by side with mergecap, dumpcap, tcpdump and netsniff-ng; writes bench/RESULTS.md.
bench: build
	scripts/deps.sh bench
	$(GO) run ./bench

# The eBPF objects, from their C sources.
generate:
	scripts/deps.sh generate
	$(GO) generate ./agent/...

# Every fuzzer for a while, one after the other.
FUZZTIME ?= 30s
fuzz:
	scripts/fuzz.sh $(FUZZTIME)

clean:
	rm -rf bin bench/work
