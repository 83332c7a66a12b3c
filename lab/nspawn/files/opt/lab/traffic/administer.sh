#!/bin/sh
# An administrator looks after one host after the other, through the bastion: administer.sh BASTION HOST...
set -eu
bastion=$1
shift
shift $(($(date +%s) / 15 % $#))
exec ssh -n -o BatchMode=yes -o ConnectTimeout=5 "alice@$bastion" \
  "ssh -n -o BatchMode=yes -o ConnectTimeout=5 alice@$1 uptime"
