#!/bin/sh
# Prints deploy/compose/.env with new random secrets; `make up` writes the file where there is none.
set -eu
# A letter comes first: nats-server reads a value that starts with a digit as a number.
secret() { printf 's%s' "$(od -An -tx1 -N24 /dev/urandom | tr -d ' \n')"; }
cat <<END
# Secrets of this deployment; keep them out of version control. To make new ones: delete this file, then make down up.
TRIUNE_API_TOKEN=$(secret)
NATS_PASSWORD=$(secret)
REDIS_PASSWORD=$(secret)
GRAFANA_PASSWORD=$(secret)

# The API and the page: http://127.0.0.1:8000. Whoever sets TRIUNE_BIND=0.0.0.0 puts TLS in front of it.
#TRIUNE_BIND=127.0.0.1
#TRIUNE_API_PORT=8000
# A folder of this host with data sets and models, seen as /data by the services; default: a volume.
#TRIUNE_DATA=/srv/data
END
