#!/bin/sh
# network.sh ROLE: the machine has the name of its role; generator and collector reach each other through the exporter.
set -eu
hostname "$1"
echo "$1" > /etc/hostname
grep -q "^127\.0\.1\.1 $1\$" /etc/hosts || echo "127.0.1.1 $1" >> /etc/hosts
case $1 in
generator) ip route replace 192.168.58.0/24 via 192.168.57.20 ;;
exporter) sysctl -qw net.ipv4.ip_forward=1 ;;
collector) ip route replace 192.168.57.0/24 via 192.168.58.20 ;;
esac
