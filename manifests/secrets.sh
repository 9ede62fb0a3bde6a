#!/usr/bin/env bash
# Makes every secret that the manifests name, with random keys: bash manifests/secrets.sh [NAMESPACE OF THE RUNS]
# Stops at one that is there already; nothing is replaced.
set -euo pipefail
runs=${1:-kubeflow}
trap 'echo "Expected every secret to be made, but got the error above. Before the next try remove what was made:
kubectl delete secret --ignore-not-found -n ferry store-identities store-admin mlflow-s3 mlflow-database
kubectl delete secret --ignore-not-found -n ferry-source store-identities store-admin
kubectl delete secret --ignore-not-found -n $runs ferry-s3 ferry-source-s3" >&2' ERR
key() { openssl rand -hex "${1:-20}"; }
admin=$(key 10) admin_secret=$(key) target=$(key 10) target_secret=$(key) mlflow=$(key 10) mlflow_secret=$(key)
source_admin=$(key 10) source_admin_secret=$(key) source=$(key 10) source_secret=$(key) password=$(key)
identity() { echo "{\"name\": \"$1\", \"credentials\": [{\"accessKey\": \"$2\", \"secretKey\": \"$3\"}], \"actions\": [$4]}"; }
of() { echo "\"Read:$1\", \"Write:$1\", \"List:$1\""; }
identities() { local IFS=,; echo "{\"identities\": [$*]}"; }

kubectl apply -f "$(dirname "$0")/services/namespaces.yaml"
kubectl create secret generic store-identities -n ferry --from-literal=s3.json="$(identities "$(identity admin "$admin" "$admin_secret" '"Admin"')" "$(identity targets "$target" "$target_secret" "$(of ferry-targets)")" "$(identity mlflow "$mlflow" "$mlflow_secret" "$(of ferry-mlflow)")")"
kubectl create secret generic store-admin -n ferry --from-literal=access-key="$admin" --from-literal=secret-key="$admin_secret"
kubectl create secret generic mlflow-s3 -n ferry --from-literal=access-key="$mlflow" --from-literal=secret-key="$mlflow_secret"
kubectl create secret generic mlflow-database -n ferry --from-literal=password="$password" --from-literal=uri="postgresql://mlflow:$password@mlflow-database.ferry.svc:5432/mlflow"
kubectl create secret generic store-identities -n ferry-source --from-literal=s3.json="$(identities "$(identity admin "$source_admin" "$source_admin_secret" '"Admin"')" "$(identity source "$source" "$source_secret" "$(of ferry-source)")")"
kubectl create secret generic store-admin -n ferry-source --from-literal=access-key="$source_admin" --from-literal=secret-key="$source_admin_secret"
kubectl create secret generic ferry-s3 -n "$runs" --from-literal=access-key="$target" --from-literal=secret-key="$target_secret"
kubectl create secret generic ferry-source-s3 -n "$runs" --from-literal=access-key="$source" --from-literal=secret-key="$source_secret"
