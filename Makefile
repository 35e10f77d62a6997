# Holdfast. `make demo` shows it, `make test` tests it; both install what they need.
PYTHON ?= python3
BIN := .venv/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
LAB_DIR ?= /run/holdfast-demo
TWINS := hatch_build.py base/holdfast/base/twins.py $(wildcard base/holdfast/base/*.h */holdfast/*/*.c */holdfast/*/*/*.c)
COMPONENTS := base metadata replicator target snapshotter cli lab
PACKAGES := $(foreach name,$(COMPONENTS),-p holdfast.$(name))

.PHONY: setup demo test sim sim-mutants sim-groups faults store-faults bench bench-lab bench-resync bench-restart bench-many bench-snapshots bench-freezes bench-sparse collection-stories check format protos lock lab-down clean conformance ring-fuzz restarts

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml $(TWINS)
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq python3-venv; }
	@echo "making the virtual environment in .venv"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: setup
	@$(SUDO) $(BIN)/holdfast-lab install
	@$(SUDO) $(BIN)/python -m holdfast.lab.demo --lab-dir $(LAB_DIR) $(if $(KEEP),--keep)

lab-down: setup
	@$(SUDO) $(BIN)/holdfast-lab down --dir $(LAB_DIR)

test: setup
	@$(SUDO) $(BIN)/holdfast-lab install
	@$(SUDO) $(BIN)/python -m pytest $(ARGS)

# Random stories of whole volumes under simulated faults: SEEDS=how many SEED=the first, FRESH=how many new ones.
sim: setup
	@$(BIN)/python tests/sim/run.py --seeds $(or $(SEEDS),10000) --first $(or $(SEED),0) --fresh $(or $(FRESH),0)

# Whether the simulation finds known mistakes, planted one at a time.
sim-mutants: setup
	@$(BIN)/python tests/sim/mutants.py $(ARGS)

# Random stories of groups of snapshots under faults: SEEDS=how many SEED=the first.
sim-groups: setup
	@$(BIN)/python tests/groups/run.py --seeds $(or $(SEEDS),1000) --first $(or $(SEED),0)

# Real hosts, real initiators, faults one after another; takes about an hour. SEED= RANDOM= choose the random ones.
faults: setup
	@$(SUDO) $(BIN)/holdfast-lab install
	@$(SUDO) $(BIN)/python tests/faults/run.py $(ARGS)

# The data path beside the bare system calls, nbdkit and qemu-nbd; ARGS='--seconds 0.5 --rounds 5'.
bench: setup
	@$(SUDO) $(BIN)/python tests/bench/native.py $(ARGS)

# The same end to end: virtual hosts, a real login and fio, beside fileio, DRBD, tgt and tcmu-runner.
bench-lab: setup
	@$(SUDO) $(BIN)/python tests/bench/lab.py $(ARGS)

# Users' writes while a host is brought up to date.
bench-resync: setup
	@$(BIN)/python tests/bench/resync.py $(ARGS)

# Users' wait after a worker's process was killed under random writes.
bench-restart: setup
	@$(BIN)/python tests/bench/restart.py $(ARGS)

# 1, 8 and 64 volumes on a host.
bench-many: setup
	@$(SUDO) $(BIN)/python tests/bench/native_many.py $(ARGS)

# Whole lives of snapshots on an object store that goes wrong by chance; ARGS='--seeds 50 --first 0'.
store-faults: setup
	@$(SUDO) $(BIN)/holdfast-lab install
	@$(SUDO) $(BIN)/python tests/store_faults/run.py $(ARGS)

# iscsi-test-cu, sg3-utils and file systems on a mirrored volume; about ten minutes. ARGS='--only ext4'.
conformance: setup
	@$(SUDO) $(BIN)/holdfast-lab install
	@$(SUDO) $(BIN)/python tests/conformance/run.py $(ARGS)

# Workers killed and upgraded under verified I/O; about half an hour. ARGS='--kills 6 --upgrades 2 --volumes 1'.
restarts: setup
	@$(SUDO) $(BIN)/holdfast-lab install
	@$(SUDO) $(BIN)/python tests/faults/restarts.py $(ARGS)

# Random and spoilt rings: SEEDS=how many SEED=the first.
ring-fuzz: setup
	@$(BIN)/python -m holdfast.target.testing_fuzz --seeds $(or $(SEEDS),20000) --first $(or $(SEED),0)
	@$(BIN)/python -m holdfast.target.testing_model --seeds $(or $(SEEDS),2000) --first $(or $(SEED),0)

# Snapshots beside plain transfers and restic, on a real S3 server; ARGS='--mib 512 --rounds 3'.
bench-snapshots: setup
	@$(SUDO) $(BIN)/python tests/bench/snapshots.py $(ARGS)

# What a freeze costs the initiators of three busy volumes; ARGS='--rounds 20'.
bench-freezes: setup
	@$(SUDO) $(BIN)/python tests/bench/freezes.py $(ARGS)

# A snapshot of a small volume beside one of 15 TiB, sparse.
bench-sparse: setup
	@$(SUDO) $(BIN)/python tests/bench/sparse.py $(ARGS)

# Random stories of snapshots, deletions and the collection of objects: SEEDS=how many SEED=the first.
collection-stories: setup
	@$(BIN)/python -m holdfast.snapshotter.testing_stories --seeds $(or $(SEEDS),1000) --first $(or $(SEED),0)

check: setup .venv-protos/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/lint-imports
	.venv-protos/bin/python protos/generate.py --check

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: .venv-protos/.ready
	.venv-protos/bin/python protos/generate.py

.venv-protos/.ready: protos/requirements.txt
	@test -x .venv-protos/bin/python || $(PYTHON) -m venv .venv-protos
	@.venv-protos/bin/pip install --quiet --disable-pip-version-check -r protos/requirements.txt
	@touch $@

# Take the newest versions that pyproject.toml admits, and pin them.
lock:
	@rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/pip install --quiet -e '.[dev]'
	@{ head -n 1 requirements.lock; .venv-lock/bin/pip freeze --exclude-editable; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock && rm -rf .venv-lock

clean:
	rm -rf .venv .venv-protos .mypy_cache .ruff_cache .pytest_cache .hypothesis
