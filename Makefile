# SPDX-License-Identifier: GPL-2.0-or-later
# Each target does all the set-up that it needs; see scripts/setup.sh.

bin = .venv/bin

.PHONY: help demo test lint bench build clean

help:
	@echo "make demo   boot Debian's kernel as a Xen guest, to a shell on its console"
	@echo "make test   run the tests, real guests included"
	@echo "make lint   check style, types and imports"
	@echo "make bench  measure against QEMU"
	@echo "make build  compile the compiled parts anew, after a change of their sources"
	@echo "make clean  remove the virtual environment and caches of tools"

demo:
	@scripts/setup.sh run
	@scripts/demo.sh

test:
	@scripts/setup.sh dev
	@$(bin)/pytest -n 2 -rs

lint:
	@scripts/setup.sh dev
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports

bench:
	@scripts/setup.sh dev
	$(bin)/pyxen image pull debian
	$(bin)/python bench/boot.py
	$(bin)/python bench/hypercalls.py
	$(bin)/python bench/xenstore.py
	$(bin)/python bench/block.py
	$(bin)/python bench/net.py
	$(bin)/pyxen image pull debian-cloud
	$(bin)/python bench/density.py

# The other targets compile when the sources differ from those of the last time; this one always.
build:
	@rm -f .venv/stamp-sources
	@scripts/setup.sh dev

clean:
	find src -name '*.so' -delete
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
