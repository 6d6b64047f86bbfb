# dtx: distributed transactions between ordinary PostgreSQL databases.
#
#   make && make install      build and install the extension (PGXS)
#   make installcheck         the regression suite, against a running server
#   make demo                 everything from nothing: the bank transfer, shown
#   make check                everything from nothing: all tests
#   make bench                side-by-side measurements
#   make chaos SEED=n DURATION=s   the random campaign
#   make drivers             the tests with real drivers; writes the tables of docs/drivers.md
#   make majors MAJORS="17 18"   built and tested on these majors of PostgreSQL, or on all that can be had
#   make minors               built against an old minor release, run on a new one
#   make fresh                on new machines what is needed is found missing, and make demo works
#   make asan                 the tests under sanitizers, on a server with assertions

MODULE_big = dtx
EXTENSION = dtx
DATA = dtx--1.0.sql
PGFILEDESC = "dtx - distributed transactions between PostgreSQL databases"

OBJS = \
	src/dtx.o src/guc.o \
	src/core/api.o src/core/ask.o src/core/branch_row.o src/core/callbacks.o src/core/children.o src/core/clock.o src/core/contact.o src/core/escape.o \
	src/core/fault.o src/core/gid.o src/core/global.o src/core/history.o src/core/horizon.o src/core/join.o src/core/leftover.o src/core/mode.o src/core/node.o src/core/one_call.o \
	src/core/override.o src/core/own_sql.o src/core/participant.o \
	src/core/peer_api.o src/core/peer_use.o src/core/read.o src/core/readable.o src/core/relations.o src/core/repeat.o src/core/resolve.o src/core/restricted.o src/core/route.o src/core/settle.o src/core/shape.o src/core/shared.o src/core/shared_here.o src/core/shmem.o \
	src/core/status.o src/core/subxact.o src/core/tell.o src/core/tombstone.o src/core/untyped.o src/core/views.o src/core/vote.o \
	src/net/connection.o src/net/dial.o src/net/endpoint.o src/net/fdw.o src/net/http.o src/net/lookup.o src/net/peer.o src/net/remote.o src/net/setup.o src/net/webhook.o \
	src/at/alter.o src/at/at.o src/at/attach.o src/at/capture.o src/at/compensate.o src/at/constraint.o src/at/fit.o \
	src/at/guard.o src/at/image.o src/at/key.o src/at/net_change.o src/at/row_lock.o src/at/show.o src/at/undo_log.o src/at/undo_read.o \
	src/xa/prepared.o src/xa/session.o src/xa/xa.o \
	src/tcc/action.o src/tcc/api.o src/tcc/call.o src/tcc/tcc.o \
	src/msg/care.o src/msg/deliver.o src/msg/half.o src/msg/handler.o src/msg/passed.o src/msg/position.o src/msg/publish.o src/msg/pull.o src/msg/receivers.o src/msg/schedule.o src/msg/segment.o \
	src/msg/subscription.o src/msg/taken.o src/msg/undelivered.o \
	src/notify/accept.o src/notify/notification.o src/notify/notify.o src/notify/outcome.o src/notify/receive.o src/notify/reconcile.o \
	src/ledger/frozen.o src/ledger/ledger.o \
	src/worker/answer.o src/worker/batch.o src/worker/channel.o src/worker/control.o src/worker/delivery.o src/worker/dispatch.o src/worker/launcher.o src/worker/link.o src/worker/mend.o \
	src/worker/notifier.o src/worker/outcome.o src/worker/places.o src/worker/pool.o src/worker/recovery.o src/worker/runner.o src/worker/target_db.o src/worker/target_http.o src/worker/targets.o src/worker/vacuum.o src/worker/worker.o

PG_CPPFLAGS = -I$(srcdir)/src -I$(libpq_srcdir)
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers
SHLIB_LINK_INTERNAL = $(libpq)
SHLIB_LINK = -lpq -lcurl -lpthread

REGRESS = $(patsubst sql/%.sql,%,$(sort $(wildcard sql/*.sql)))
ISOLATION = $(patsubst specs/%.spec,%,$(sort $(wildcard specs/*.spec)))
# PGXS appends --dbname with these, and the last one counts
override CONTRIB_TESTDB = dtx_regression
override ISOLATION_TESTDB = dtx_isolation

# The extension gains nothing from inlining by the JIT compiler.
override with_llvm = no

# The targets that do all the set-up themselves must work before PGXS is there.
SELF_CONTAINED = demo check chaos bench lint drivers majors minors fresh asan
ifneq ($(filter $(SELF_CONTAINED),$(MAKECMDGOALS)),)

# without PG_CONFIG they find a PostgreSQL, or install one
.PHONY: $(SELF_CONTAINED)
$(SELF_CONTAINED):
	@command -v bash >/dev/null || { echo "make $@ is a script for bash, which is not there: install it" >&2; exit 1; }
	@SEED='$(SEED)' DURATION='$(DURATION)' MAJORS='$(MAJORS)' PG_CONFIG='$(PG_CONFIG)' bash .ci/$@

else

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifeq ($(wildcard $(PGXS)),)
$(error $(PG_CONFIG) is not there, or is of a client alone. Install the headers of the server (Debian: postgresql-server-dev-N, Fedora: \
postgresql-server-devel and PG_CONFIG=pg_server_config, others: README.md), or say which PostgreSQL: make PG_CONFIG=/path/of/pg_config. \
"make demo" finds or installs what it needs)
endif
include $(PGXS)

# Every object depends on every header: the tree is small.
$(OBJS): $(wildcard $(srcdir)/src/*.h $(srcdir)/src/*/*.h)

endif
