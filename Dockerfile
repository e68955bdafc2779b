# The sidecar: one static binary on an empty file system.
#
# The image of Rust on Alpine links statically against musl by itself, on amd64 and on arm64. Where it cannot be pulled,
# scripts/build-image puts a binary of its own in the place of the stage `build`.
# It is pinned by digest: a tag can be moved. There is no `# syntax=` line: it would have to be pulled too.
ARG RUST_IMAGE=rust:1.95-alpine@sha256:606fd313a0f49743ee2a7bd49a0914bab7deedb12791f3a846a34a4711db7ed2

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    target="$(uname -m)-unknown-linux-musl" && \
    scripts/remap-paths "$target" cargo build --locked --release --target "$target" && \
    scripts/image-root "target/$target/release/gmsa-sidecar" /out

FROM scratch
ARG VERSION=0.0.0 REVISION=unknown
LABEL org.opencontainers.image.title="gmsa-sidecar" \
      org.opencontainers.image.description="Kerberos tickets of group Managed Service Accounts for Linux containers, from a sidecar" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/ /
USER 65532:65532
# Owner and mode of this folder are those of the shared volume: a platform copies them to the empty volume it mounts here.
VOLUME ["/var/credentials-fetcher/krbdir"]
HEALTHCHECK --interval=5s --timeout=3s --start-period=120s --start-interval=250ms --retries=3 CMD ["/gmsa-sidecar", "health"]
ENTRYPOINT ["/gmsa-sidecar"]
CMD ["run"]
