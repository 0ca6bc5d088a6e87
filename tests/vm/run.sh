#!/usr/bin/env bash
# run.sh vagrant|qemu KERNEL...: the scenarios in this folder on virtual machines, with each kernel. As root.
# run.sh box: makes what the machines boot from, where it is not there yet.
#
# All of it (virtual machines, libvirt, networks) lives in namespaces of its own: processes, mounts and networks are gone
# when this ends, however it ends. What is kept is the box, in PYFLOWX_VM_CACHE (~/.cache/pyflowx/vm), by its recipe's hash.
set -euo pipefail
driver=${1:?run.sh vagrant|qemu KERNEL... or run.sh box}
shift
cd "$(dirname "$0")/../.."
lap() { echo "vm: $1: $((SECONDS - ${since:-0})) s" >&2; since=$SECONDS; }

if [ -z "${PYFLOWX_VM_WORK:-}" ]; then # outside of the namespaces, where there is a network
	cache=${PYFLOWX_VM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pyflowx/vm}
	work=$(mktemp -d /var/tmp/pyflowx-vm.XXXXXX)
	chmod 755 "$work"
	trap 'rm -rf --one-file-system "$work"' EXIT
	recipe=$(sed -n '/^dependencies/,/^]/p' pyproject.toml | cat - vagrant/box/* <(grep ^RUN_PACKAGES Makefile) | sha256sum | cut -c1-16)
	programs=$(cat bpf/*.[ch] pyflowx/kernel/*.py pyflowx/__init__.py | sha256sum | cut -c1-16)
	mkdir -p "$cache"
	exec 9> "$cache/lock"
	flock 9 # another run may be making the same
	find "$cache" -mindepth 1 -maxdepth 1 ! -name "box-$recipe" ! -name "programs-$programs" ! -name lock -exec rm -rf {} + # outdated
	compiling=
	if [ "$driver" != box ] && [ ! -e "$cache/programs-$programs" ]; then # for emulated machines this would take a minute
		.venv/bin/pyflowx compile --log-level warning -o "$work/programs" && mv "$work/programs" "$cache/programs-$programs" &
		compiling=$!
	fi
	if [ ! -e "$cache/box-$recipe/complete" ]; then
		unshare --mount vagrant/box/build.sh "$cache/box-$recipe"
		touch "$cache/box-$recipe/complete"
		lap 'box'
	fi
	[ "$driver" != box ] || exit 0
	# What the machines get: the clone as it is, a wheel of it, and its kernel programs.
	git ls-files -z --cached --others --exclude-standard | rsync -a --files-from=- --from0 --ignore-missing-args . "$work/source"
	.venv/bin/pip wheel -q --disable-pip-version-check --no-deps -w "$work/source/dist" .
	[ -z "$compiling" ] || wait "$compiling"
	cp -r "$cache/programs-$programs" "$work/source/programs"
	exec 9>&-
	lap 'wheel and programs'
	export PYFLOWX_VM_WORK=$work PYFLOWX_VM_BOX=$cache/box-$recipe
	# Not exec: the trap removes what is left.
	unshare --mount --net --pid --fork --kill-child --mount-proc "$0" "$driver" "$@"
	exit
fi

work=$PYFLOWX_VM_WORK
ip link set lo up
umount -l /sys # with the control groups, which libvirt is to leave alone
mount -t sysfs sysfs /sys # of this network
if [ "$driver" = vagrant ]; then
	# libvirt of our own: its folders are empty ones, its machines run as we do.
	for folder in /run/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt; do
		mkdir -p "$folder" "$work$folder"
		mount --bind "$work$folder" "$folder"
	done
	cp -a /etc/libvirt "$work/libvirt"
	rm -rf "$work"/libvirt/qemu/networks "$work"/libvirt/qemu/*.xml
	printf 'user = "root"\ngroup = "root"\nremember_owner = 0\nsecurity_driver = "none"\n' > "$work/libvirt/qemu.conf"
	mount --bind "$work/libvirt" /etc/libvirt
	virtlogd > "$work/virtlogd.log" 2>&1 < /dev/null &
	libvirtd > "$work/libvirtd.log" 2>&1 < /dev/null &
	for _ in $(seq 100); do virsh -q -c qemu:///system version > /dev/null 2>&1 && break || sleep 0.3; done
	lap 'libvirt'
fi
export PYFLOWX_VM=$driver PYTHONPATH=tests
if [ "$driver" = qemu ]; then # once for all kernels
	.venv/bin/python -m vm.qemu "$PYFLOWX_VM_BOX" "$1" "$work"
fi
scenarios() { # KERNEL
	export PYFLOWX_VM_KERNEL=$1 PYFLOWX_VM_FOLDER=$PYFLOWX_VM_WORK/$1
	mkdir "$PYFLOWX_VM_FOLDER"
	.venv/bin/python -m pytest tests/vm -v -s --durations=0 --durations-min=1 -p no:cacheprovider 2>&1 | sed -u "s/^/$1  /"
}
export -f scenarios
# The three machines of a kernel take up to 2.5 GB.
jobs=$(awk '$1 == "MemAvailable:" { jobs = int($2 / 2500000); print jobs ? jobs : 1 }' /proc/meminfo)
status=0
printf '%s\n' "$@" | xargs -P "$jobs" -I{} bash -o pipefail -c 'scenarios {}' || status=1
lap "$driver, kernels $*"
exit $status
