"""Machines that `vagrant up` raised, with everything in them (vagrant/Vagrantfile). The driver
leaves them up."""

from __future__ import annotations

from lab.vm.fleet import MachineDriver


class VagrantDriver(MachineDriver):
    name = "vagrant"
