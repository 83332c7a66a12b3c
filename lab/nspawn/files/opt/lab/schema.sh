#!/bin/sh
# The shop's database, once.
set -eu
psql -qtAc "select 1 from pg_database where datname = 'shop'" | grep -q 1 && exit 0
psql -q -v ON_ERROR_STOP=1 -c 'create role shop login' -c 'create database shop owner shop'
psql -q -v ON_ERROR_STOP=1 -d shop -c 'create table orders (id serial primary key, what text)' \
  -c "insert into orders (what) values ('tea'), ('bread')" -c 'grant select on orders, orders_id_seq to shop'
