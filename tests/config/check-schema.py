#!/usr/bin/python3
"""Checks configuration files by the JSON Schema, as an editor would: check-schema.py SCHEMA FILE..."""

import json
import sys

import yaml
from jsonschema import Draft202012Validator

# What the program refuses, the schema has to refuse too: a check that cannot fail says nothing.
WRONG = [
    {"web": {"max_requsts": 1}},
    {"web": {"max_requests": 0}},
    {"docker": {"timeout": "5s"}},
    {"containers": {"encoding": "codes"}},
    {"containers": {"names": ["a"]}},
    {"events": {"log": "yes"}},
    {"meter_provider": {"readers": [{"pull": {"exporter": {"prometheus": None}}}]}},
]

with open(sys.argv[1], encoding="utf-8") as file:
    schema = json.load(file)
Draft202012Validator.check_schema(schema)
validator = Draft202012Validator(schema)
problems = [f"taken by the schema: {json.dumps(wrong)}" for wrong in WRONG if validator.is_valid(wrong)]
for name in sys.argv[2:]:
    with open(name, encoding="utf-8") as file:
        content = yaml.safe_load(file)
    for error in validator.iter_errors(content):
        problems.append(f"{name}: {'.'.join(map(str, error.absolute_path))}: {error.message}")
if problems:
    sys.exit("\n".join(problems))
print(f"{len(sys.argv) - 2} files are as the schema says, {len(WRONG)} wrong ones are not")
