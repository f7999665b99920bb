# Carebell's image: one program on an empty base, for user 65532 and a read-only root.
#
#   docker build --tag carebell:0.2.0 --build-arg REVISION="$(git rev-parse HEAD)" .
#   docker build --target sbom --output sbom .     # sbom/carebell.cdx.json: its contents, as CycloneDX
#
# The program needs glibc: static glibc cannot resolve names, and musl's allocator is slow with many threads.
# image/rootfs adds the program, the few libraries it loads, and TLS roots to an empty base. There is no shell and no
# package manager. A distroless base would add nothing that the program uses.

# By digest, so that the same base is built tomorrow; a tag can be moved. It is the index of all architectures.
ARG BASE=rust:1.95.0-bookworm@sha256:6258907abe69656e41cd992e0b705cdcfabcbbe3db374f92ed2d47121282d4a1

FROM ${BASE} AS build
# cargo-auditable embeds the list of dependencies for scanners; cargo-cyclonedx writes it to a file.
RUN cargo install --locked --root /usr/local cargo-auditable@0.7.7 \
    && cargo install --locked --root /usr/local cargo-cyclonedx@0.5.9
# Keep names for backtraces; drop debug information.
ENV CARGO_PROFILE_RELEASE_STRIP=debuginfo
WORKDIR /build

# Dependencies, including OpenSSL from source, built with empty sources: this layer changes only with a manifest. The
# output of the empty sources and build script is removed, because cargo compares times and the real files are older.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
# The manifest names benches, so they must exist; they are not built.
RUN mkdir src benches \
    && touch src/lib.rs \
    && awk -F'"' '/^\[/ { bench = /^\[\[bench]]/ } bench && /^name/ { printf "" >("benches/" $2 ".rs") }' Cargo.toml \
    && for file in build.rs src/main.rs; do echo 'fn main() {}' >"$file"; done \
    && cargo auditable build --release --locked \
    && cargo clean --release --package carebell \
    && rm -r benches

# The sources, and the files built into the program: proto/, streams/, migrations/.
COPY . .
RUN cargo auditable build --release --locked --bin carebell \
    && cargo cyclonedx --format json \
    && sh image/rootfs target/release/carebell /rootfs

FROM scratch AS sbom
COPY --from=build /build/carebell.cdx.json /

FROM scratch
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="carebell" \
      org.opencontainers.image.description="Reminder and notification jobs over NATS JetStream and Postgres" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /rootfs/ /
USER 65532:65532
# Internal: health and metrics. Public: provider callbacks.
EXPOSE 3002 3003
ENTRYPOINT ["/carebell"]
CMD ["run"]
