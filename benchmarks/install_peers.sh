#!/bin/sh
# What driftkit is measured against, each in an environment of its own, because their pins do not agree with one
# another's nor with ours: the load generators of client_ceiling.py and the detectors of drift_detection.py.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}

install() { # install NAME REQUIREMENT
  environment=.venv-peers/$1
  test -x "$environment/bin/python" || "$PYTHON" -m venv "$environment"
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "$2"
  "$environment/bin/python" -m pip list --disable-pip-version-check 2>/dev/null | grep -i "^$1 "
}

install aiperf "aiperf==0.13.*"
install guidellm "guidellm==0.8.*"
install river "river==0.26.*"
