/*
 * override.c
 *		Settings that dtx overrides for the rest of a transaction.
 */
#include "postgres.h"

#include "core/compat.h"
#include "core/override.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timeout.h"

typedef struct Override
{
	MemoryContextCallback callback;
	int		   *variable;
	int			former;
} Override;

static void
restore(void *arg)
{
	Override   *override = arg;

	*override->variable = override->former;
}

void
setting_override(int *variable, int value)
{
	Override   *override = MemoryContextAllocZero(TopTransactionContext, sizeof(Override));

	override->variable = variable;
	override->former = *variable;
	override->callback.func = restore;
	override->callback.arg = override;
	/* called last registered first: the first override restores the original */
	MemoryContextRegisterResetCallback(TopTransactionContext, &override->callback);
	*variable = value;
}

void
setting_local(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL,
							 true, 0, false);
}

/*
 * Settings of a role, a database or the server are inherited by every session, those
 * between nodes among them. What must not reach them there, and why:
 *
 *	statement_timeout		a batch is one statement: none of it would ever be settled.
 *							What hangs is the coordinator's to end (dtx.call_timeout)
 *	transaction_timeout		the same, and it ends the connection
 *	lock_timeout,			settling has limits of its own, which are short, but not so
 *	dtx.lock_timeout		short that nothing gets done: settle.c sets them
 *	default_transaction_*	transactions are begun as READ COMMITTED READ WRITE, and so
 *							never wait for a snapshot, as deferrable ones do
 *	synchronous_commit		is set by whoever has to know what is durable
 *	DateStyle, IntervalStyle, extra_float_digits
 *							values travel as text: participant.c sets them for branches;
 *							what nodes tell each other has no text that depends on them
 *	client_encoding			libpq asks for the coordinator's when it connects
 *	search_path, row_security, session_replication_role, planner settings
 *							nothing of dtx's own depends on them: names are qualified, its
 *							tables have no policies, its triggers fire always, and what
 *							compensation has to check it checks itself
 *	idle_session_timeout	what one call has settled the next one finds durable: if it is
 *							made over the same connection. When there is no more to do the
 *							coordinator closes it by itself
 *
 * A user's statement in a branch keeps what its role says, timeouts included: it is
 * the role's statement; what it ends is rolled back with the whole.
 */
void
settings_of_settling(void)
{
	/* it runs already, for the statement that this function is in */
	if (get_timeout_active(STATEMENT_TIMEOUT))
		disable_timeout(STATEMENT_TIMEOUT, false);
	if (StatementTimeout != 0)
		setting_local("statement_timeout", "0");
	if (dtx_transaction_timeout() != 0)
		setting_local("transaction_timeout", "0");
	if (IdleSessionTimeout != 0)
		(void) set_config_option("idle_session_timeout", "0", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SET, true, 0, false);
}

/* The same for a process that is dtx's own, before its first transaction: as the
 * server does it for autovacuum. */
void
settings_of_process(bool runs_user_code)
{
	/* a message is handled, and a decision recorded, once, by the role it is meant to be */
	static const char *const always[][2] = {
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_deferrable", "off"},
		{"role", "none"}
	};

	/* a user's code may count on what its role sets; where that is read only it waits */
	static const char *const own[][2] = {
		{"default_transaction_read_only", "off"},
		{"lock_timeout", "0"},
		{"search_path", "pg_catalog, pg_temp"},
		{"row_security", "on"},
		{"session_replication_role", "origin"},
		{"default_table_access_method", "heap"},
		{"zero_damaged_pages", "off"},
		{"DateStyle", "ISO"},
		{"IntervalStyle", "postgres"},
		{"extra_float_digits", "1"},
		/* its statements are short, and some are planned with seqscans made dear, which would
		 * have each compiled: half a second at every start */
		{"jit", "off"}
	};

	for (int i = 0; i < lengthof(always); i++)
		SetConfigOption(always[i][0], always[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	/* here statement_timeout does nothing, and transaction_timeout would end the process */
	if (dtx_transaction_timeout() != 0)
		SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	for (int i = 0; i < lengthof(own) && !runs_user_code; i++)
		SetConfigOption(own[i][0], own[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}
