"""Policies that the controller's tests push."""

SHOP = """
version: 1
tags:
  role: [web, db]
  env: [dev, prod]
services:
  pg: [tcp/5432]
peers:
  office: [203.0.113.0/24]
workloads:
  shop-db: {on: {role: db}, process: {unit: "postgresql@*.service"}}
modes:
  - {select: {}, mode: enforce}
boundaries:
  - {name: dev-stays-out, from: {env: dev}, to: {env: prod}}
rules:
  - {name: web-db, from: {role: web}, to: {workload: shop-db}, allow: [pg], owner: team, why: orders}
essentials:
  dns: [192.0.2.53]
  rescue: {from: [198.51.100.0/28]}
"""

WIDER = SHOP.replace("allow: [pg]", "allow: [pg, tcp/8080]")

BROKEN_TEST = (
    SHOP
    + """
tests:
  - {from: {role: web}, to: {workload: shop-db}, deny: [pg]}
"""
)
