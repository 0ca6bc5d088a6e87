# make demo | test | lint | bench | install: each sets up what it needs (Debian 12; as root or with sudo).
.DEFAULT_GOAL := help
SHELL := /bin/bash
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# Debian's own interpreter: python3-bpfcc is built for it.
PYTHON := /usr/bin/python3
VENV := .venv
PREFIX := /opt/pyflowx
BIN := /usr/local/bin
# What is installed: this clone, or a wheel of it.
FROM ?= .

RUN_PACKAGES := python3 python3-venv python3-dev gcc libc6-dev python3-bpfcc linux-headers-amd64 libpcap0.8 iproute2
TEST_PACKAGES := clang clang-format bpftool ethtool tcpdump tshark softflowd nfdump pmacct tcpreplay iperf3 iputils-ping protobuf-compiler chromium tmux

help:
	@echo 'make demo      two network namespaces, an exporter, a collector: flows on the screen, totals compared'
	@echo 'make test      all tests (needs root for the kernel ones)'
	@echo 'make vm        scenarios on three virtual machines (Vagrant, libvirt); make vm-matrix: with each kernel (QEMU)'
	@echo 'make lint      ruff, mypy, import contracts, clang-format'
	@echo 'make fuzz      every codec fuzzed with atheris for SECONDS (60) each'
	@echo 'make bench     the benchmarks in tests/bench, one after the other'
	@echo 'make screenshots   the pictures in docs/screenshots, of pyflowx tui --demo'
	@echo 'make soak      a collector under load for ten minutes: nothing lost, memory flat'
	@echo 'make install   pyflowx into $(PREFIX), linked as $(BIN)/pyflowx'
	@echo 'make install-services   and systemd units for it'
	@echo 'make uninstall the reverse of both'

# $(call apt,PACKAGES): install those that are missing; asks the network only when one is.
apt = missing=""; for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	[ -z "$$missing" ] || { echo "installing:$$missing" >&2; $(SUDO) apt-get update -qq && \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; }

$(VENV)/.run: pyproject.toml $(wildcard setup.py pyflowx/sinks/*.[ch])
	@$(call apt,$(RUN_PACKAGES))
	@[ -x $(VENV)/bin/pip ] || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install -q --disable-pip-version-check -e .
	@$(VENV)/bin/python -m compileall -q pyflowx tui  # starts quicker, also where Python may not write
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@$(call apt,$(TEST_PACKAGES))
	@$(VENV)/bin/pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

setup: $(VENV)/.test

demo: $(VENV)/.run
	@$(SUDO) $(VENV)/bin/python tests/demo.py

# The tests of a file run in one process, in the order of files: the last ones are short. PARALLEL= for one process.
PARALLEL := -n 3 --dist=loadfile --no-loadscope-reorder
test: $(VENV)/.test
	$(SUDO) env $(if $(CI),CI=$(CI)) $(if $(PYFLOWX_VECTORS),PYFLOWX_VECTORS=$(PYFLOWX_VECTORS)) $(VENV)/bin/python -m pytest $(PARALLEL) $(ARGS)

# The matrix needs QEMU only. Both take root; nothing that they start outlives them.
VM_PACKAGES := qemu-system-x86 qemu-utils mmdebstrap e2fsprogs rsync openssh-client iproute2 util-linux
VAGRANT_PACKAGES := $(VM_PACKAGES) vagrant vagrant-libvirt libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients \
	dnsmasq-base iptables nftables
vm-tools:
	@$(call apt,$(VAGRANT_PACKAGES))

vm-box: $(VENV)/.test vm-tools
	$(SUDO) tests/vm/run.sh box

vm: $(VENV)/.test vm-tools
	$(SUDO) tests/vm/run.sh vagrant 6.1

vm-matrix: $(VENV)/.test
	@$(call apt,$(VM_PACKAGES))
	$(SUDO) tests/vm/run.sh qemu 5.10 6.1 6.12

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	clang-format --dry-run -Werror bpf/*.[ch] pyflowx/sinks/*.[ch]

SECONDS := 60
fuzz: $(VENV)/.test
	@$(VENV)/bin/pip install -q --disable-pip-version-check -e '.[fuzz]'
	@env $(if $(PYFLOWX_VECTORS),PYFLOWX_VECTORS=$(PYFLOWX_VECTORS)) $(VENV)/bin/python tests/fuzz/fuzz.py $(SECONDS) $(ARGS)

bench: $(VENV)/.test
	@for b in $(filter-out %/soak.py,$(wildcard tests/bench/*.py)); do echo "== $$b"; $(SUDO) $(VENV)/bin/python $$b || exit 1; done

screenshots: $(VENV)/.run
	@$(VENV)/bin/python docs/screenshots.py

soak: $(VENV)/.test
	$(VENV)/bin/python tests/bench/soak.py $(ARGS)

install:
	@$(call apt,$(RUN_PACKAGES))
	@[ -x $(PREFIX)/bin/pip ] || $(SUDO) $(PYTHON) -m venv $(PREFIX)
	@$(SUDO) $(PREFIX)/bin/pip install -q --disable-pip-version-check --upgrade $(FROM)
	@$(SUDO) ln -sfn $(PREFIX)/bin/pyflowx $(BIN)/pyflowx
	@$(BIN)/pyflowx --version

install-services: install
	@$(SUDO) install -Dm644 -t /etc/systemd/system pyflowx/share/systemd/*.service
	@$(SUDO) install -Dm644 -t /etc/sysctl.d pyflowx/share/sysctl/60-pyflowx.conf
	@[ -e /etc/pyflowx/pyflowx.toml ] || $(SUDO) install -Dm644 -t /etc/pyflowx pyflowx/share/pyflowx.toml
	@[ ! -d /run/systemd/system ] || $(SUDO) systemctl daemon-reload
	@echo 'edit /etc/pyflowx/pyflowx.toml, then: systemctl enable --now pyflowx-collect'

uninstall:
	@$(SUDO) rm -rf $(PREFIX) /etc/sysctl.d/60-pyflowx.conf $(addprefix /etc/systemd/system/,$(notdir $(wildcard pyflowx/share/systemd/*)))
	@[ "$$(readlink $(BIN)/pyflowx)" != $(PREFIX)/bin/pyflowx ] || $(SUDO) rm $(BIN)/pyflowx

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: help setup demo test vm vm-tools vm-box vm-matrix lint fuzz bench screenshots install uninstall clean
