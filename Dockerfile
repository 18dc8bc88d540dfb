# The images of Sunbear, a target for each program. Nothing is compiled here: `cargo xtask images`
# builds the programs, lays them into dist/ beside this file, and builds all targets. It also says
# which base and Postgres to take, and makes its own where none can be pulled.
ARG BASE_IMAGE=debian:bookworm-slim
ARG POSTGRES_IMAGE=postgres:15-bookworm

FROM ${BASE_IMAGE} AS certificates
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*

# What all programs share: authorities to trust, a user without rights, and what health checks ask.
FROM ${BASE_IMAGE} AS base
COPY --from=certificates /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
RUN groupadd --gid 65532 sunbear \
    && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin sunbear \
    && install -d -o 65532 -g 65532 -m 0700 /var/lib/sunbear /run/sunbear
COPY deploy/images/ready /usr/local/bin/ready
USER 65532:65532

FROM base AS global
COPY dist/sunbear-global /usr/local/bin/
ENTRYPOINT ["sunbear-global"]

FROM base AS zone
COPY dist/sunbear-zone /usr/local/bin/
ENTRYPOINT ["sunbear-zone"]

FROM base AS echo
COPY dist/sunbear-echo /usr/local/bin/
ENTRYPOINT ["sunbear-echo"]

# sunbear-dp with the Envoy that it runs.
FROM base AS gateway
COPY dist/envoy dist/sunbear-dp /usr/local/bin/
COPY deploy/images/gateway /usr/local/bin/
COPY docs/quickstart/gateway-dataplane.yaml /etc/sunbear/
ENTRYPOINT ["gateway"]

# sunbearctl, and the steps that make keys, certificates and tokens and apply the quickstart.
FROM base AS ctl
USER root
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends openssl \
    && rm -rf /var/lib/apt/lists/*
RUN for name in authority admin global zone-east zone-west gateway-east gateway-west; do \
        install -d -o 65532 -g 65532 -m 0700 "/secrets/$name"; \
    done \
    && for name in postgres postgres-east postgres-west; do \
        install -d -o 65532 -g 65532 -m 0755 "/secrets/$name"; \
    done
COPY dist/sunbearctl /usr/local/bin/
COPY deploy/images/init deploy/images/apply /usr/local/bin/
COPY docs/quickstart /etc/sunbear/quickstart
USER 65532:65532
ENTRYPOINT ["sunbearctl"]

# A plain TCP balancer.
FROM base AS balancer
USER root
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends haproxy \
    && rm -rf /var/lib/apt/lists/*
COPY deploy/images/haproxy.cfg /etc/haproxy/haproxy.cfg
USER 65532:65532
ENTRYPOINT ["haproxy", "-W", "-db", "-f", "/etc/haproxy/haproxy.cfg"]

# Debian's Postgres, to be used in the same way as the official image: for machines that cannot
# pull that one.
FROM ${BASE_IMAGE} AS postgres-debian
RUN groupadd --gid 999 postgres \
    && useradd --uid 999 --gid 999 --home-dir /var/lib/postgresql --shell /bin/bash postgres \
    && apt-get update \
    && mkdir -p /etc/postgresql-common \
    && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql-15 \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 999 -g 999 -m 0700 /var/lib/postgresql/data \
    && install -d -o 999 -g 999 -m 2775 /run/postgresql
ENV PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/var/lib/postgresql/data
COPY deploy/images/postgres-entrypoint /usr/local/bin/
STOPSIGNAL SIGINT
USER 999:999
ENTRYPOINT ["postgres-entrypoint"]
CMD ["postgres"]

FROM ${POSTGRES_IMAGE} AS postgres
