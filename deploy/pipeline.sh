#!/bin/sh
# One run of the pipeline in production, on a schedule: what Kubernetes and ECS run in the image.
#
#     sh deploy/pipeline.sh
#
# Its variables are those of feature_repo/feature_store.production.yaml, and
# FEATURE_STORE_TRANSACTIONS   a file or a folder, also in a bucket
# FEATURE_STORE_FAIL_ON        value-changing or breaking: a plan of that verdict or worse stops it ahead of `feast apply`
#
# It ends with one line, which alarms look for, and with the exit status of the last step:
#
#     pipeline: green              every step is done, and the proof found no difference
#     pipeline: red: ...           the proof found a difference; exit status 1
#     pipeline: failed: ...        a step could not be done; exit status 2
set -u
cd "$(dirname "$0")/.."

failed() {
  echo "pipeline: failed: $*"
  exit 2
}

step() {
  echo "pipeline: $*"
  "$@" || failed "$* (exit status $?)"
}

test -n "${FEATURE_STORE_TRANSACTIONS:-}" || failed "FEATURE_STORE_TRANSACTIONS is not set"

deployed=
if python -m parity deploy --status | grep -q '^[0-9]*  served '; then
  echo "pipeline: what is served was brought there by python -m parity deploy, so nothing is applied here"
  deployed=yes
fi

fail_on=${FEATURE_STORE_FAIL_ON:-never}
if [ -z "$deployed" ] && [ "$fail_on" != never ]; then
  echo "pipeline: python -m parity plan --applied --sample 10000 --fail-on $fail_on"
  python -m parity plan --applied --sample 10000 --fail-on "$fail_on"
  case $? in
    0) ;;
    1) failed "python -m parity plan: this change is $fail_on or worse, so it was not applied" ;;
    *) echo "pipeline: there is no plan, as before the first run, so nothing is stopped" ;;
  esac
fi

test -n "$deployed" || step feast -c feature_repo apply
step python compute_features.py --incremental --input "$FEATURE_STORE_TRANSACTIONS"
step python materialize_to_online.py

echo "pipeline: python demo_fixed.py --sample 10000"
python demo_fixed.py --sample 10000
status=$?
case $status in
  0) echo "pipeline: green" ;;
  1) echo "pipeline: red: what is served differs from what is trained on; the lines above name it"; exit 1 ;;
  *) failed "python demo_fixed.py (exit status $status)" ;;
esac
