# SPDX-License-Identifier: Apache-2.0
"""A server of a small decoder and a client of it, for each file."""

import pytest

from tests.serve.served import client, run, serving_of


@pytest.fixture(scope="module")
def server():
    with serving_of(run()) as one:
        yield one


@pytest.fixture(scope="module")
def asked(server):
    with client(server) as one:
        yield one
