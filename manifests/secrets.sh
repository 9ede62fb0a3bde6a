#!/usr/bin/env bash
# Makes every secret that the stores and MLflow of `services` need, with random keys, and gives a namespace its keys:
# bash manifests/secrets.sh [NAMESPACE OF THE RUNS]
# Where they are there already it makes none: new keys would not be those that the stores know.
set -euo pipefail
runs=${1:-kubeflow}
made=()
fail() {
    echo "Expected every secret to be made, but got the error above. Before the next try remove what was made:" >&2
    for one in "${made[@]}"; do echo "kubectl delete secret $one" >&2; done
}
make() { # namespace, name, key=value...
    local namespace=$1 name=$2
    shift 2
    kubectl create secret generic "$name" -n "$namespace" "${@/#/--from-literal=}"
    made+=("$name -n $namespace")
}
key() { openssl rand -hex "${1:-20}"; }
identity() { echo "{\"name\": \"$1\", \"credentials\": [{\"accessKey\": \"$2\", \"secretKey\": \"$3\"}], \"actions\": [$4]}"; }
of() { echo "\"Read:$1\", \"Write:$1\", \"List:$1\""; }
identities() { local IFS=,; echo "{\"identities\": [$*]}"; }

if kubectl get secret store-identities -n ferry > /dev/null 2>&1; then
    echo "Expected no secret of the stores, but got store-identities in namespace ferry. Nothing was made. Another namespace" >&2
    echo "gets the keys so: kubectl get secret ferry-s3 -n kubeflow -o yaml | sed '/namespace:/d' | kubectl apply -n $runs -f -" >&2
    exit 2
fi
trap fail ERR
admin=$(key 10) admin_secret=$(key) target=$(key 10) target_secret=$(key) mlflow=$(key 10) mlflow_secret=$(key)
source_admin=$(key 10) source_admin_secret=$(key) source=$(key 10) source_secret=$(key) password=$(key)
known=$(identities "$(identity admin "$admin" "$admin_secret" '"Admin"')" \
    "$(identity targets "$target" "$target_secret" "$(of ferry-targets)")" \
    "$(identity mlflow "$mlflow" "$mlflow_secret" "$(of ferry-mlflow)")")
known_source=$(identities "$(identity admin "$source_admin" "$source_admin_secret" '"Admin"')" \
    "$(identity source "$source" "$source_secret" "$(of ferry-source)")")

kubectl apply -f "$(dirname "$0")/services/namespaces.yaml"
make ferry store-identities s3.json="$known"
make ferry store-admin access-key="$admin" secret-key="$admin_secret"
make ferry mlflow-s3 access-key="$mlflow" secret-key="$mlflow_secret"
make ferry mlflow-database password="$password" uri="postgresql://mlflow:$password@mlflow-database.ferry.svc:5432/mlflow"
make ferry-source store-identities s3.json="$known_source"
make ferry-source store-admin access-key="$source_admin" secret-key="$source_admin_secret"
make "$runs" ferry-s3 access-key="$target" secret-key="$target_secret"
make "$runs" ferry-source-s3 access-key="$source" secret-key="$source_secret"
