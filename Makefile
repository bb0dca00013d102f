# pgcutover: make all, make test, make install; "make help" lists the rest.
# On a bare Debian "make deps" comes first: it installs the compiler and the libraries.

PREFIX ?= /usr/local
DESTDIR ?=
JOBS ?= 2
PYTHON ?= /usr/bin/python3
# in the tested build a warning is an error; WERROR=0 for a compiler that warns about more
WERROR ?= 1

ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(JOBS)
endif

# V=1 shows whole command lines
Q := $(if $(V),,@)
say = $(if $(V),,@echo "  $(1) $@")

BUILD := build
ASAN := build-asan

CFLAGS ?= -O2 -g
WARNINGS := -Wall -Wextra -Wshadow -Wconversion
# -iquote, not -I: our sys/file.h must not stand in front of the system's
OUR_FLAGS := -std=c11 -D_GNU_SOURCE $(WARNINGS) -iquote include
ASAN_FLAGS := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined \
              -fno-omit-frame-pointer $(if $(filter 1,$(WERROR)),-Werror)

# Asked once and only when something is compiled, so that "make deps" works where there's no pkg-config.
# libpg_query has no .pc file.
PACKAGES := libpq inih jansson
PKG_CFLAGS = $(eval PKG_CFLAGS := $$(patsubst -I%,-isystem %,$$(shell pkg-config --cflags \
               $(PACKAGES))))$(PKG_CFLAGS)
PKG_LIBS = $(eval PKG_LIBS := $$(shell pkg-config --libs $(PACKAGES)) -lpg_query -pthread)$(PKG_LIBS)

SOURCES := $(sort $(wildcard src/*/*.c))
COMMANDS := $(sort $(wildcard cmd/*.c))
UNIT_SOURCES := $(sort $(wildcard tests/unit/test_*.c))
UNIT_BINARIES := $(UNIT_SOURCES:%.c=$(ASAN)/%)
TEXTS := $(wildcard include/*/*.h src/*/*.c src/*/*.h cmd/*.c cmd/*.h tests/unit/*.c tests/unit/*.h)

.PHONY: fuzz fuzz-binaries all asan demo test unit e2e lint format bench install clean deps test-fresh readme help
.DELETE_ON_ERROR:
.SECONDARY:

all: $(BUILD)/pgcutover
asan: $(ASAN)/pgcutover

# $(1): directory of the objects, $(2): the flags that make this kind of build
define build_rules
$(1)/%.o: %.c
	@mkdir -p $$(@D)
	$$(call say,CC )
	$$(Q)$$(CC) $$(CFLAGS) $(2) $$(OUR_FLAGS) $$(CPPFLAGS) $$(PKG_CFLAGS) -pthread -MMD -MP -c -o $$@ $$<

$(1)/libpgcutover.a: $$(SOURCES:%.c=$(1)/%.o)
	@rm -f $$@
	$$(call say,AR )
	$$(Q)$$(AR) rcs $$@ $$^

$(1)/pgcutover: $$(COMMANDS:%.c=$(1)/%.o) $(1)/libpgcutover.a
	$$(call say,LD )
	$$(Q)$$(CC) $$(CFLAGS) $(2) $$(LDFLAGS) -o $$@ $$^ $$(PKG_LIBS)

-include $$(SOURCES:%.c=$(1)/%.d) $$(COMMANDS:%.c=$(1)/%.d)
endef

$(eval $(call build_rules,$(BUILD),))
$(eval $(call build_rules,$(ASAN),$$(ASAN_FLAGS)))

$(ASAN)/tests/unit/%: $(ASAN)/tests/unit/%.o $(ASAN)/libpgcutover.a
	$(call say,LD )
	$(Q)$(CC) $(CFLAGS) $(ASAN_FLAGS) $(LDFLAGS) -o $@ $^ -lcmocka $(PKG_LIBS)

-include $(UNIT_SOURCES:%.c=$(ASAN)/%.d)

FUZZ_SOURCES := $(sort $(wildcard tests/fuzz/fuzz_*.c))
FUZZ_SECONDS ?= 20

$(ASAN)/tests/fuzz/%: $(ASAN)/tests/fuzz/%.o $(ASAN)/libpgcutover.a
	$(call say,LD )
	$(Q)$(CC) $(CFLAGS) $(ASAN_FLAGS) -fsanitize=fuzzer $(LDFLAGS) -o $@ $^ $(PKG_LIBS)

fuzz-binaries: $(FUZZ_SOURCES:%.c=$(ASAN)/%)

# what takes bytes from outside, each for FUZZ_SECONDS; what is found lies in build-fuzz
fuzz: deps
	$(MAKE) CC=clang ASAN=build-fuzz WERROR=0 \
	    ASAN_FLAGS='-O1 -g -fsanitize=fuzzer-no-link,address,undefined' fuzz-binaries
	@rc=0; for t in $(FUZZ_SOURCES:%.c=build-fuzz/%); do \
	    echo "== $$t"; \
	    $$t -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=build-fuzz/ -verbosity=0 || rc=1; \
	done; exit $$rc

deps:
	src/dist/deps.sh

# Every part runs even if one before it failed, so that one run tells all; a broken build ends it.
test: deps
	$(MAKE) asan
	@rc=0; \
	$(MAKE) lint || rc=1; \
	src/dist/readme.py $(ASAN)/pgcutover --check || rc=1; \
	$(MAKE) unit || rc=1; \
	$(MAKE) e2e || rc=1; \
	exit $$rc

unit: $(UNIT_BINARIES)
	@test -n "$^" || { echo "no unit tests" >&2; exit 1; }
	@rc=0; for t in $^; do \
	    echo "== $$t"; \
	    timeout 120 $$t || { echo "failed: $$t" >&2; rc=1; }; \
	done; exit $$rc

e2e: asan
	PGCUTOVER_BIN=$(abspath $(ASAN)/pgcutover) $(PYTHON) -m pytest tests/e2e $(PYTEST_ARGS)

lint:
	$(PYTHON) src/dist/lint.py

# the playbook reference in README.md, from the program's own table
readme: all
	src/dist/readme.py $(BUILD)/pgcutover

format:
	clang-format -i $(TEXTS)

demo: deps
	$(MAKE) all
	PGCUTOVER_BIN=$(abspath $(BUILD)/pgcutover) tests/demo/run

bench: deps
	$(MAKE) all
	PGCUTOVER_BIN=$(abspath $(BUILD)/pgcutover) tests/bench/run

# a bare Debian in a folder: deps, demo and test there; needs root
test-fresh:
	src/dist/test-fresh.sh full

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/pgcutover/playbooks \
	    $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/doc/pgcutover
	install -m 755 $(BUILD)/pgcutover $(DESTDIR)$(PREFIX)/bin/
	install -m 644 LICENSE $(wildcard README.md) $(DESTDIR)$(PREFIX)/share/doc/pgcutover/
	for f in $(wildcard playbooks/*.ini); do \
	    install -m 644 $$f $(DESTDIR)$(PREFIX)/share/pgcutover/playbooks/ || exit 1; done
	for f in $(wildcard src/dist/*.1); do \
	    install -m 644 $$f $(DESTDIR)$(PREFIX)/share/man/man1/ || exit 1; done

clean:
	rm -rf $(BUILD) $(ASAN) build-fuzz

help:
	@echo "all deps test unit e2e lint asan format demo bench fuzz install clean readme test-fresh"
