#!/bin/sh
# Try an image where there is Docker: the pipeline against a Redis with a password, up to a green proof, then the server.
#
#     docker build -f deploy/Dockerfile -t feature-store:try . && sh deploy/smoke.sh feature-store:try
set -eu
image=$1
name=smoke-$$
password=${REDIS_PASSWORD:-only-for-this-run}

cleanup() {
  docker rm -f "$name-redis" "$name-server" >/dev/null 2>&1 || true
  docker volume rm "$name" >/dev/null 2>&1 || true
  docker network rm "$name" >/dev/null 2>&1 || true
}
trap cleanup EXIT

docker network create "$name" >/dev/null
docker volume create "$name" >/dev/null
docker run -d --name "$name-redis" --network "$name" redis:7.2-alpine redis-server --requirepass "$password" >/dev/null

with() {
  docker run --network "$name" -v "$name:/app/data" \
    -e FEATURE_STORE_REGISTRY=/app/data/registry.db -e FEATURE_STORE_OFFLINE_PATH=/app/data/features \
    -e FEATURE_STORE_TRANSACTIONS=/app/data/transactions.csv -e FEATURE_STORE_REDIS_TYPE=redis \
    -e "FEATURE_STORE_REDIS=$name-redis:6379,password=$password" "$@"
}

with --rm "$image" python generate_synthetic_data.py --output data/transactions.csv
with --rm "$image" sh deploy/pipeline.sh | tee /dev/stderr | grep -qx "pipeline: green"

with -d --name "$name-server" "$image" >/dev/null
question='{"features": ["user_purchase_features:user_total_transactions"], "entities": {"user_id": [1]}}'
ask="import sys, urllib.request as r; q = r.Request('http://$name-server:6566/get-online-features', sys.argv[1].encode(), \
{'Content-Type': 'application/json'}); print(r.urlopen(q, timeout=10).read().decode())"
for _ in 1 2 3 4 5 6 7 8 9 10 11 12; do
  sleep 5
  if answer=$(with --rm "$image" python -c "$ask" "$question" 2>/dev/null); then
    echo "$answer"
    echo "$answer" | grep -q PRESENT
    exit
  fi
done
docker logs "$name-server"
exit 1
