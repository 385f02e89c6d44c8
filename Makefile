# make demo   the whole pipeline, from nothing: environment, Redis, data, features, proof
# make model  from real purchases to a model and back: train, prove, serve, audit, compare; installs what that takes
# make watch  one bad day and one drifted week planted, found by quality, drift and proof, on one page; installs what that takes
# make test   the tests
# make bench  how fast, side by side with what one would pick instead; a part, in two minutes: make bench SIZE=0.02
# make bench-drift   false alarms and drifts found, beside KS, PSI and Evidently; less: ROWS=1000 RUNS=50 NULLS=100
# make test-scale   the tests of what takes Spark and other extras, which it installs
# make soak   tests that ask the same of many more worlds, or for minutes; they are not of test-scale
# make chaos-serving   readers beside materializations that run, are killed and lose Redis, for a minute
# make chaos  events beside kills of workers, Redis and Kafka, for ten minutes; shorter: make chaos SECONDS=60
# make actionlint   the workflows of GitHub, checked; takes Go
# make zoo    how good the checker is: planted faults found, causes named, false alarms

# The first Python that is new enough; or say which: make demo PYTHON=/path/to/python
PYTHON := $(shell for p in python3 python3.12 python3.11 python3.13 python3.14; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
BIN := .venv/bin
SIZE := 1
SECONDS := 600
ROWS := 1000 10000 100000 1000000
RUNS := 400 200 30 2
NULLS := 1500 500 100 5

.PHONY: demo model watch test test-scale soak bench bench-drift chaos chaos-serving zoo lint actionlint redis redis-stop clean
.DELETE_ON_ERROR:

demo: redis
	$(BIN)/python generate_synthetic_data.py
	cd feature_repo && ../$(BIN)/feast apply
	$(BIN)/python compute_features.py
	$(BIN)/python materialize_to_online.py
	$(BIN)/python demo_fixed.py

CDNOW := examples/cdnow
PRESENT := 1998-07-01T00:00:00Z

model: SINCE := $(shell date -u +%Y-%m-%dT%H:%M:%SZ)
model: .venv/model-installed redis
	$(BIN)/python $(CDNOW)/cdnow.py
	cd $(CDNOW) && ../../$(BIN)/feast apply
	$(BIN)/python compute_features.py -c $(CDNOW)
	$(BIN)/python materialize_to_online.py -c $(CDNOW) --end $(PRESENT)
	$(BIN)/python demo_fixed.py -c $(CDNOW) --key 00004 --at $(PRESENT)
	$(BIN)/python $(CDNOW)/train.py
	$(BIN)/python $(CDNOW)/prove.py --json $(CDNOW)/data/proof.json
	$(BIN)/python $(CDNOW)/ask.py
	$(BIN)/python -m parity audit -c $(CDNOW) --since $(SINCE) --report $(CDNOW)/data/audit.html
	$(BIN)/python -m parity audit -c $(CDNOW) --since $(SINCE) --json > $(CDNOW)/data/audit.json
	$(BIN)/python $(CDNOW)/train.py --service recency_and_frequency
	$(BIN)/python $(CDNOW)/ab.py
	$(BIN)/python $(CDNOW)/report.py

WATCH := examples/watch

# The watch finds what is planted, and so ends with 1.
watch: .venv/watch-installed redis
	$(BIN)/python generate_synthetic_data.py --rows 27000 --users 300 --days 45 --output $(WATCH)/data/drawn.csv
	$(BIN)/python $(WATCH)/plant.py
	cd $(WATCH) && ../../$(BIN)/feast apply
	$(BIN)/python compute_features.py -c $(WATCH)
	$(BIN)/python materialize_to_online.py -c $(WATCH)
	$(BIN)/python -m parity watch -c $(WATCH) --sample 200 --report $(WATCH)/data/watch/watch.html; test $$? = 1

test: .venv/tests-installed
	$(BIN)/python -c 'from parity.edge.redis_server import require_server; require_server()'
	$(BIN)/python -m pytest -n $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )) --dist worksteal -m "not scale"

test-scale: .venv/scale-installed .venv/flink-installed
	$(BIN)/python -c 'from parity.edge.redis_server import require_server; require_server()'
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "scale and not soak"

soak: .venv/scale-installed
	$(BIN)/python -c 'from parity.edge.redis_server import require_server; require_server()'
	$(BIN)/python -m pytest -n 2 --dist worksteal -m soak

bench: .venv/bench-installed
	@$(BIN)/python -m benchmarks --size $(SIZE)

bench-drift: .venv/drift-installed
	@$(BIN)/python -m benchmarks.drift --rows $(ROWS) --runs $(RUNS) --nulls $(NULLS)

chaos-serving: .venv/tests-installed
	@$(BIN)/python -m tests.serving

chaos: .venv/scale-installed
	@$(BIN)/python -m tests.chaos --seconds $(SECONDS)

zoo: .venv/tests-installed
	@$(BIN)/python -m tests.zoo

lint: .venv/tests-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The checker of workflows, in Go: it has no package for Python that holds it.
ACTIONLINT := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

actionlint:
	go run $(ACTIONLINT)

redis: .venv/installed
	@$(BIN)/python -m parity redis start

redis-stop: .venv/installed
	@$(BIN)/python -m parity redis stop

clean:
	rm -rf .venv

.venv/installed: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed; say where: make PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/bench-installed: .venv/tests-installed requirements-kafka.txt requirements-model.txt $(wildcard benchmarks/requirements*.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt -r requirements-kafka.txt \
	  -r requirements-model.txt
	$(BIN)/python -m venv .venv/quix
	.venv/quix/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements-quix.txt
	$(BIN)/python -m tests.brokers
	@touch $@

.venv/model-installed: .venv/installed requirements-model.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-model.txt
	@touch $@

.venv/watch-installed: .venv/installed requirements-quality.txt requirements-drift.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-quality.txt -r requirements-drift.txt
	@touch $@

.venv/tests-installed: .venv/installed tests/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

# Evidently in an environment of its own, as it takes a gigabyte and another pandas.
.venv/drift-installed: .venv/tests-installed requirements-drift.txt benchmarks/requirements-evidently.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-drift.txt
	$(BIN)/python -m venv .venv/evidently
	.venv/evidently/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements-evidently.txt
	@touch $@

.venv/scale-installed: .venv/tests-installed tests/requirements-scale.txt \
  $(addprefix requirements-,$(addsuffix .txt,spark s3 kafka model quality drift))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements-scale.txt
	$(BIN)/python -m tests.brokers
	@touch $@

# An environment of its own: see requirements-flink.txt. There is no Flink for Python 3.13 and newer.
.venv/flink-installed: .venv/installed requirements-flink.txt
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; then \
	  $(BIN)/python -m venv .venv/flink && \
	  .venv/flink/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-flink.txt; \
	else echo "Apache Flink: it has no package for this Python, so its tests are skipped"; fi
	@touch $@
