# docker build --tag docker-state-exporter --build-arg REVISION=$(git rev-parse HEAD) .
#
# A static binary in an image with nothing else: no shell, no library, no user but the one it runs as.
ARG BUILDER=rust:1-alpine

FROM ${BUILDER} AS build
# Rust's image brings a C compiler for ring; named here for what else may be BUILDER. make is for jemalloc.
RUN apk add --no-cache ca-certificates gcc make musl-dev
WORKDIR /src
# Whatever a target's default is. An explicit --target keeps the flag away from procedural macros, which
# cannot be static.
ENV RUSTFLAGS="-C target-feature=+crt-static"
# The dependencies first: this layer stays as long as Cargo.lock does.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
# Members of the workspace, without which cargo reads nothing. They are not built.
COPY macrobench macrobench
COPY fake-engine fake-engine
# Nor are tests and benchmarks, which cargo refuses to do without once it knows their names.
RUN sed -i '/^\[\[/,/^$/d' Cargo.toml \
 && mkdir src && echo '//! Nothing yet.' > src/lib.rs && printf '//! Nothing yet.\nfn main() {}\n' > src/main.rs \
 && cargo build --release --locked --target "$(rustc -vV | sed -n 's/^host: //p')" \
 && rm -r src
COPY . .
ARG REVISION=unknown
# Newer than the placeholders, or cargo would think them built.
RUN touch src/lib.rs src/main.rs \
 && export DSE_REVISION="${REVISION}" \
 && cargo build --release --locked --target "$(rustc -vV | sed -n 's/^host: //p')" \
 && cp target/*/release/docker-state-exporter /docker-state-exporter

FROM scratch
ARG REVISION=unknown
LABEL org.opencontainers.image.title="docker-state-exporter" \
      org.opencontainers.image.description="The state and events of every container of a Docker daemon, for Prometheus and OpenTelemetry" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
# For OTLP over https.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /docker-state-exporter /docker-state-exporter
# The socket's group is given when it is run: --group-add $(stat -c %g /var/run/docker.sock)
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s CMD ["/docker-state-exporter", "healthcheck"]
ENTRYPOINT ["/docker-state-exporter"]
