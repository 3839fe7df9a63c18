# The image of one node. docs/deployment.md says how to run it.
#
#   docker build -t fastkv:0.2.0 .
#
# Two stages: the first compiles, the second has only what a node needs. Python packages are pinned by hash, file times
# are fixed and .pyc files carry no times, so that equal sources on an equal base make equal layers.

FROM debian:bookworm-slim AS build

ARG SOURCE_DATE_EPOCH=1767225600
ENV PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY deploy/docker/*requirements.txt deploy/docker/
# /build has the tools, /usr/local/lib/fastkv what is delivered: no pip, no setuptools, no compiler.
RUN python3 -m venv /build \
    && /build/bin/pip install --require-hashes -r deploy/docker/build-requirements.txt \
    && python3 -m venv --without-pip /usr/local/lib/fastkv \
    && /build/bin/pip --python /usr/local/lib/fastkv/bin/python install --no-compile --require-hashes \
       -r deploy/docker/requirements.txt

# The compiled core by itself, so that a change elsewhere compiles nothing anew.
COPY pyproject.toml setup.py LICENSE ./
COPY fastkv/version.py fastkv/
COPY fastkv/_core fastkv/_core
RUN touch README.md && CFLAGS=-g0 /build/bin/python setup.py --quiet build_ext

COPY README.md ./
COPY fastkv fastkv
# --no-index: whatever was missing now would come in unpinned.
RUN /build/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /build/bin/pip --python /usr/local/lib/fastkv/bin/python install --no-compile --no-index --no-deps /wheels/*.whl \
    && cd /usr/local/lib/fastkv \
    && find . -name '*.so' -exec strip --strip-unneeded {} + \
    && find . \( -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.h' -o -name '*.pyi' \) -delete \
    && find . -type d \( -name tests -o -name testing -o -name include \) -prune -exec rm -rf {} + \
    && find . -path '*/pygments/lexers/*.py' ! -name '_*' ! -name python.py ! -name special.py -delete \
    && rm -f bin/activate* bin/Activate* lib/python3*/site-packages/*.dist-info/direct_url.json \
    && cd lib/python3.11/site-packages \
    && python3 -m compileall -q --invalidation-mode unchecked-hash fastkv \
    && python3 -m compileall -q -b --invalidation-mode unchecked-hash -x '^\./fastkv/' . \
    && find . -name '*.py' ! -path './fastkv/*' -delete \
    && mkdir -p /delivered/usr/local/lib \
    && mv /usr/local/lib/fastkv /delivered/usr/local/lib \
    && find /delivered -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

# What the files may be read by, and when they were changed, is not left to the checkout.
COPY deploy/docker deploy/docker
RUN install -D -m 0644 -t /image/etc/fastkv deploy/docker/*.yaml \
    && install -D -m 0755 deploy/docker/healthcheck /image/usr/local/bin/fastkv-healthcheck \
    && find /image -exec touch --date="@$SOURCE_DATE_EPOCH" {} +

FROM debian:bookworm-slim

ARG SOURCE_DATE_EPOCH=1767225600

# Python, an account without privileges, and a directory for the data that belongs to it. What an installation leaves
# behind, and what of Python's library no node uses, goes in the same step: a later one would not make the image smaller.
# Libraries are there as .pyc alone: they load as fast, and take half. fastkv itself keeps its sources, for tracebacks.
# Purged is what only Python's modules for SQLite and NIS need, which go as well.
RUN touch /started \
    && apt-get update \
    && apt-get install -y --no-install-recommends python3 \
    && groupadd --gid 10001 fastkv \
    && useradd --uid 10001 --gid fastkv --home-dir /var/lib/fastkv --no-create-home --no-log-init \
       --shell /usr/sbin/nologin fastkv \
    && install -d -o fastkv -g fastkv -m 0750 /var/lib/fastkv \
    && cd /usr/lib/python3.11 \
    && rm -rf ensurepip idlelib lib2to3 pydoc_data sqlite3 test \
    && rm -f lib-dynload/_sqlite3.* lib-dynload/nis.* lib-dynload/_test* lib-dynload/_codecs_*.so \
    && dpkg --purge --force-depends libsqlite3-0 libnsl2 libtirpc3 libtirpc-common libgssapi-krb5-2 libkrb5-3 \
       libk5crypto3 libkrb5support0 libkeyutils1 \
    && find . -name __pycache__ -prune -exec rm -rf {} + \
    && python3 -B -m compileall -q -b --invalidation-mode unchecked-hash . \
    && find . -name '*.py' -delete \
    && find /usr/share/doc \( -type f -o -type l \) ! -name copyright -delete \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /tmp/* /usr/share/man/* \
    && find /var/log -type f -exec truncate --size=0 {} + \
    && find /etc /tmp /usr /var -newer /started ! -path /etc/hosts ! -path /etc/hostname ! -path /etc/resolv.conf \
       -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} + \
    && rm /started

# Each from its own root: a directory that COPY makes by itself has the time of the build.
COPY --from=build /delivered/ /
COPY --from=build /image/ /

# Unbuffered, so that a log line is there when it was written; no .pyc, which the account could not write anyway.
ENV PATH=/usr/local/lib/fastkv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 KV_DATA_DIR=/var/lib/fastkv

USER fastkv
WORKDIR /var/lib/fastkv
VOLUME /var/lib/fastkv
EXPOSE 8081 9001
STOPSIGNAL SIGTERM

# Whether the process works, not whether it has a leader: an orchestrator restarts who is not healthy, and restarting a
# node that waits for the others helps nobody. The start period is long because a node may have a long log to read.
HEALTHCHECK --interval=2s --timeout=3s --retries=5 --start-period=300s CMD ["fastkv-healthcheck"]

ENTRYPOINT ["fastkv"]
CMD ["serve"]
