# The image of Carebell: one program on an empty base, run by user 65532, on a read-only root.
#
#   docker build --tag carebell:0.2.0 --build-arg REVISION="$(git rev-parse HEAD)" .
#   docker build --target sbom --output sbom .     # sbom/carebell.cdx.json: what is in it, as CycloneDX
#
# The program needs glibc: static glibc cannot resolve names, and musl's allocator is slow under many threads. So the
# base is empty, and image/rootfs puts in the program, the few libraries that it loads, and roots for TLS. There is no
# shell and no package manager; what a distroless base would bring beyond that, this program does not use.

ARG RUST=1.95.0
ARG DEBIAN=bookworm

FROM rust:${RUST}-${DEBIAN} AS build
# cargo-auditable writes the list of dependencies into the program, where scanners read it; cargo-cyclonedx into a file.
RUN cargo install --locked --root /usr/local cargo-auditable@0.7.7 \
    && cargo install --locked --root /usr/local cargo-cyclonedx@0.5.9
# Backtraces keep their names; what only a debugger needs goes.
ENV CARGO_PROFILE_RELEASE_STRIP=debuginfo
WORKDIR /build

# All dependencies, for empty sources: this layer is built again only when a manifest changes. OpenSSL is among them,
# from source. What was made of the empty sources themselves is removed, build script and its output too: cargo goes by
# times, and the real files are older than what it has just built.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
# Benches are named by the manifest, so they have to be there too; they are not built.
RUN mkdir src benches \
    && touch src/lib.rs \
    && awk -F'"' '/^\[/ { bench = /^\[\[bench]]/ } bench && /^name/ { printf "" >("benches/" $2 ".rs") }' Cargo.toml \
    && for file in build.rs src/main.rs; do echo 'fn main() {}' >"$file"; done \
    && cargo auditable build --release --locked \
    && cargo clean --release --package carebell \
    && rm -r benches

# The sources, and what is built into the program: proto/, streams/, migrations/.
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
# Health and metrics, for the inside; callbacks of providers, for the outside.
EXPOSE 3002 3003
ENTRYPOINT ["/carebell"]
CMD ["run"]
