# The image: pcapsule, the authorities that browsers trust (for S3), and two users.
# scripts/image makes the same without Docker; its test holds the two together.
#
#     docker build --build-arg VERSION=1.2.3 -t registry.example.com/pcapsule:1.2.3 .
#     docker buildx build --platform linux/amd64,linux/arm64 …

FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=dev
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/pcapsule ./cmd/pcapsule

FROM scratch
ARG VERSION=dev
LABEL org.opencontainers.image.title="pcapsule"
LABEL org.opencontainers.image.description="A flight recorder for Kubernetes traffic, with an archive that outlives the tool"
LABEL org.opencontainers.image.licenses="Apache-2.0"
LABEL org.opencontainers.image.version="$VERSION"
COPY --from=build /out/pcapsule /usr/local/bin/pcapsule
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY scripts/image/rootfs/etc/passwd /etc/passwd
COPY scripts/image/rootfs/etc/group /etc/group
ENV PATH=/usr/local/bin
# Agents run as root, with none of its power: the chart says so, and why.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/pcapsule"]
