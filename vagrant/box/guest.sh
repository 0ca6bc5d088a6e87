#!/usr/bin/env bash
# guest.sh STEP ROOT [FILE]: steps of build.sh that make a Debian tree a guest; mmdebstrap runs them.
set -euo pipefail
step=$1 root=$2
export DEBIAN_FRONTEND=noninteractive

before() { # small initial RAM disks: the modules that find the disk
	mkdir -p "$root/etc/initramfs-tools/conf.d"
	printf '%s\n' virtio_pci virtio_blk ext4 > "$root/etc/initramfs-tools/modules"
	printf '%s\n' MODULES=list COMPRESS=lz4 > "$root/etc/initramfs-tools/conf.d/pyflowx"
}

kernels() { # the oldest that pyflowx supports, out of Debian 11; the newest of Debian 12's backports
	printf 'deb %s bullseye main\ndeb %s bookworm-backports main\n' "$PYFLOWX_MIRROR" "$PYFLOWX_MIRROR" \
		> "$root/etc/apt/sources.list.d/kernels.list"
	printf 'Package: *\nPin: release n=bullseye*\nPin-Priority: 50\n' > "$root/etc/apt/preferences.d/kernels"
	chroot "$root" apt-get update -qq
	for version in '5\.10' '6\.12'; do
		chroot "$root" apt-cache search --names-only "^linux-image-$version\.[^ ]*-cloud-amd64\$" | cut -d' ' -f1 |
			sort -V | tail -1
	done | xargs chroot "$root" apt-get install -y -qq --no-install-recommends > /dev/null
	rm "$root"/etc/apt/{sources.list.d,preferences.d}/kernels*
	chroot "$root" apt-get clean
	rm -rf "$root"/var/lib/apt/lists/*
}

python() { # what pyflowx depends on, where `make install` puts it
	mkdir "$root/wheels"
	cp "$1"/*.whl "$root/wheels"
	chroot "$root" /usr/bin/python3 -m venv /opt/pyflowx
	chroot "$root" sh -c '/opt/pyflowx/bin/pip install -q --no-index --no-deps /wheels/*.whl'
	rm -r "$root/wheels"
}

user() { # what Vagrant expects
	chroot "$root" useradd -m -s /bin/bash -G sudo vagrant
	install -d -m 700 "$root/home/vagrant/.ssh"
	install -m 600 "$1" "$root/home/vagrant/.ssh/authorized_keys"
	chroot "$root" chown -R vagrant:vagrant /home/vagrant/.ssh
	echo 'vagrant ALL=(ALL) NOPASSWD: ALL' > "$root/etc/sudoers.d/vagrant"
	echo pyflowx > "$root/etc/hostname"
	printf '127.0.0.1 localhost\n127.0.1.1 pyflowx\n' > "$root/etc/hosts"
	echo '/dev/vda / ext4 noatime 0 1' > "$root/etc/fstab"
	printf 'source /etc/network/interfaces.d/*\nauto lo\niface lo inet loopback\nauto eth0\niface eth0 inet dhcp\n' \
		> "$root/etc/network/interfaces"
	printf 'UseDNS no\nGSSAPIAuthentication no\n' > "$root/etc/ssh/sshd_config.d/vagrant.conf"
	rm -f "$root"/etc/systemd/system/timers.target.wants/* # nothing that begins by itself while something is measured
}

"$step" "${@:3}"
