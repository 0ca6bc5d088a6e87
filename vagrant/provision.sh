#!/bin/sh
# Installs pyflowx and its services as a user would, out of the clone in /usr/src/pyflowx.
set -eu
if ! command -v make > /dev/null; then
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq make > /dev/null
fi
cd /usr/src/pyflowx
if [ -d programs ]; then # compiled elsewhere
	install -D -m 644 -t /usr/lib/pyflowx/programs programs/*
fi
make -s install-services
