#!/usr/bin/env bash
# build.sh DIR: makes the Vagrant box of the VM tests in DIR (pyflowx.box and the files in it), as root, in one or two
# minutes. Debian 12 with what `make install` needs, three kernels side by side, booted without a boot loader. Guests of
# the tests have no network, so pyflowx's Python packages are in /opt/pyflowx already; pyflowx itself is not.
# Packages come from where this host's apt has its own (or PYFLOWX_MIRROR).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
out=${1:?build.sh DIR}
root=$out/root
mkdir -p "$out"
trap 'rm -rf --one-file-system "$root" "$out/box.raw" "$out/wheels"' EXIT
lap() { echo "box: $1: $((SECONDS - ${since:-0})) s" >&2; since=$SECONDS; }

# The address of Debian's archive, of one or the other kind, as apt knows it.
archive() { apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' | awk -F'|' -v l="$1" '$1 == "Debian" && $2 == l { print $3; exit }'; }
mirror=${PYFLOWX_MIRROR:-$(archive Debian)}
security=${PYFLOWX_SECURITY_MIRROR:-$(archive Debian-Security)}
[ -n "$mirror" ] || { echo 'box: apt knows no Debian mirror; name one: PYFLOWX_MIRROR=http://.../debian' >&2; exit 2; }
export PYFLOWX_MIRROR=$mirror

# The list of run-time packages is the Makefile's own.
needed=$(make -s -C "$repository" --eval='needed:;@echo $(RUN_PACKAGES)' needed)
system="systemd systemd-sysv udev dbus kmod initramfs-tools zstd netbase ifupdown isc-dhcp-client openssh-server sudo rsync
	qemu-guest-agent make procps iputils-ping iperf3 ethtool bpftool linux-image-cloud-amd64"
suites=("deb $mirror bookworm main" "deb $mirror bookworm-updates main")
[ -z "$security" ] || suites+=("deb $security bookworm-security main")

"$repository/.venv/bin/pip" wheel -q --disable-pip-version-check -w "$out/wheels" "$repository"
rm "$out"/wheels/pyflowx-*
lap 'Python packages'
rm -f "$out/key" "$out/key.pub"
ssh-keygen -q -t ed25519 -N '' -C vagrant -f "$out/key" # of these machines only, and quicker than Vagrant's own
# shellcheck disable=SC2086
mmdebstrap --quiet --mode=root --variant=minbase --format=directory \
	--include="$(echo $system $needed | tr ' ' ,)" \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' --aptopt='Acquire::Languages "none"' \
	--aptopt='APT::Install-Recommends "false"' \
	--essential-hook="'$here/guest.sh' before \"\$1\"" \
	--customize-hook="'$here/guest.sh' kernels \"\$1\"" \
	--customize-hook="'$here/guest.sh' python \"\$1\" '$out/wheels'" \
	--customize-hook="'$here/guest.sh' user \"\$1\" '$out/key.pub'" \
	bookworm "$root" "${suites[@]}"
lap mmdebstrap

mkfs.ext4 -q -d "$root" -L root -E lazy_itable_init=1 "$out/box.raw" 6G
qemu-img convert -O qcow2 "$out/box.raw" "$out/box.img"
for kernel in 5.10 6.1 6.12; do
	cp "$root"/boot/vmlinuz-$kernel.* "$out/vmlinuz-$kernel"
	cp "$root"/boot/initrd.img-$kernel.* "$out/initrd-$kernel"
done
cp "$here/Vagrantfile" "$out/Vagrantfile"
echo '{"provider": "libvirt", "format": "qcow2", "virtual_size": 6}' > "$out/metadata.json"
tar -C "$out" -cf "$out/pyflowx.box" metadata.json Vagrantfile key box.img vmlinuz-{5.10,6.1,6.12} initrd-{5.10,6.1,6.12}
lap "image, $(du -m "$out/pyflowx.box" | cut -f1) MB"
