/*
 * guc.c
 *		Every setting of dtx, in alphabetical order.
 */
#include "postgres.h"

#include <limits.h>

#include "core/fault.h"
#include "core/participant.h"
#include "guc.h"
#include "utils/guc.h"

int			guc_call_timeout = 0;
int			guc_connect_timeout = 10000;
int			guc_connections_per_role = 4;
int			guc_connections_per_server = 16;
int			guc_history_retention = 86400;
int			guc_lock_timeout = 10000;
int			guc_max_answer_size = 256 * 1024;
int			guc_max_databases = 64;
int			guc_max_message_size = 1024;
int			guc_message_check_attempts = 15;
int			guc_message_check_first = 6000;
int			guc_message_check_interval = 30000;
int			guc_message_retention = 86400;
int			guc_message_segment_size = 262144;
int			guc_notification_retention = 30 * 86400;
int			guc_received_retention = -1;
int			guc_recovery_interval = 60000;
int			guc_retry_after = -1;
int			guc_retry_base = 100;
int			guc_retry_max = 60000;
int			guc_settle_batch = 256;
int			guc_settle_delay = 5;
int			guc_subscriptions_per_role = 1000;
int			guc_unattached = UNATTACHED_ERROR;
int			guc_worker_idle_timeout = 60000;

static const struct config_enum_entry unattached_options[] = {
	{"error", UNATTACHED_ERROR, false},
	{"warn", UNATTACHED_WARN, false},
	{"allow", UNATTACHED_ALLOW, false},
	{NULL, 0, false}
};

/*
 * Inside a branch the statement is a stranger's: it does not get to change
 * the rules it runs under.
 */
static bool
refuse_inside_branch(GucSource source)
{
	if (source < PGC_S_INTERACTIVE || !participant_user_statement())
		return true;
	GUC_check_errcode(ERRCODE_INSUFFICIENT_PRIVILEGE);
	GUC_check_errmsg("settings of dtx cannot be changed inside a branch");
	return false;
}

static bool
check_int_setting(int *newval, void **extra, GucSource source)
{
	return refuse_inside_branch(source);
}

static bool
check_fault_point(char **newval, void **extra, GucSource source)
{
	return refuse_inside_branch(source) &&
		fault_check_setting(newval, extra, source);
}

static void
define_int(const char *name, const char *description, int *variable, int least,
		   int most, GucContext context, int flags)
{
	DefineCustomIntVariable(name, description, NULL, variable, *variable, least, most,
							context, flags, check_int_setting, NULL, NULL);
}

void
guc_define(void)
{
	define_int("dtx.call_timeout",
			   "Ends a call to a peer that takes longer than this; 0 waits for ever.",
			   &guc_call_timeout, 0, INT_MAX, PGC_USERSET, GUC_UNIT_MS);
	define_int("dtx.connect_timeout",
			   "Gives up connecting to a peer after this time.",
			   &guc_connect_timeout, 1, INT_MAX, PGC_USERSET, GUC_UNIT_MS);
	define_int("dtx.connections_per_role",
			   "Sets how many connections to one server messages of one role are delivered through at most.",
			   &guc_connections_per_role, 1, 1000, PGC_SIGHUP, 0);
	define_int("dtx.connections_per_server",
			   "Sets how many connections to one server messages of all roles are delivered through at most.",
			   &guc_connections_per_server, 1, 1000, PGC_SIGHUP, 0);
	DefineCustomStringVariable("dtx.fault_point",
							   "Arms a fault point, as name:action, for tests of crashes.",
							   NULL, &fault_point_setting, "", PGC_SUSET,
							   GUC_NOT_IN_SAMPLE, check_fault_point,
							   fault_assign_setting, NULL);
	define_int("dtx.history_retention",
			   "Keeps the outcomes of global transactions for this time; -1 for ever.",
			   &guc_history_retention, -1, INT_MAX, PGC_SIGHUP, GUC_UNIT_S);
	define_int("dtx.lock_timeout",
			   "Gives up waiting for a row that a branch in doubt holds after this time; 0 waits for ever.",
			   &guc_lock_timeout, 0, INT_MAX, PGC_USERSET, GUC_UNIT_MS);
	define_int("dtx.max_answer_size",
			   "Ends a call to a peer whose answer is larger than this.",
			   &guc_max_answer_size, 1024, INT_MAX, PGC_SUSET, GUC_UNIT_KB);
	define_int("dtx.max_databases",
			   "Sets the number of databases of this cluster that can use dtx.",
			   &guc_max_databases, 1, 8192, PGC_POSTMASTER, 0);
	define_int("dtx.max_message_size",
			   "Sets the largest message that can be published, with its topic, key and headers.",
			   &guc_max_message_size, 1, 64 * 1024, PGC_SUSET, GUC_UNIT_KB);
	define_int("dtx.message_check_attempts",
			   "Sets how often the check function of a half message is asked.",
			   &guc_message_check_attempts, 1, INT_MAX, PGC_SIGHUP, 0);
	define_int("dtx.message_check_first",
			   "Asks the check function of a half message this time after it was prepared.",
			   &guc_message_check_first, 0, INT_MAX, PGC_USERSET, GUC_UNIT_MS);
	define_int("dtx.message_check_interval",
			   "Asks the check function of a half message again after this time.",
			   &guc_message_check_interval, 1, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS);
	define_int("dtx.message_retention",
			   "Keeps messages in the log at least for this time, for replay.",
			   &guc_message_retention, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_S);
	define_int("dtx.message_segment_size",
			   "Begins a new segment of the log of messages when the last has this size.",
			   &guc_message_segment_size, 8, INT_MAX, PGC_SIGHUP, GUC_UNIT_KB);
	define_int("dtx.notification_retention",
			   "Keeps notifications that were delivered, and registered results, for this time, for who asks; -1 for ever.",
			   &guc_notification_retention, -1, INT_MAX, PGC_SIGHUP, GUC_UNIT_S);
	define_int("dtx.received_retention",
			   "Remembers for this time which results of other nodes were applied here; -1 for ever.",
			   &guc_received_retention, -1, INT_MAX, PGC_SIGHUP, GUC_UNIT_S);
	define_int("dtx.recovery_interval",
			   "Asks every peer for branches in doubt once in this time.",
			   &guc_recovery_interval, 100, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS);
	DefineCustomIntVariable("dtx.retry_after",
							"In a handler that then raises an error: has the message tried again after this time, which counts as no attempt.",
							NULL, &guc_retry_after, -1, -1, INT_MAX, PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	define_int("dtx.retry_base",
			   "Sets the first delay before a failed settling is tried again.",
			   &guc_retry_base, 1, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS);
	define_int("dtx.retry_max",
			   "Caps the delay before a failed settling is tried again.",
			   &guc_retry_max, 1, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS);
	define_int("dtx.settle_batch",
			   "Sets how many branches one call to a peer settles at most.",
			   &guc_settle_batch, 1, 4096, PGC_SIGHUP, 0);
	define_int("dtx.settle_delay",
			   "Sets the least time between two calls that settle branches at a peer, unless somebody waits there.",
			   &guc_settle_delay, 0, 10000, PGC_SIGHUP, GUC_UNIT_MS);
	define_int("dtx.subscriptions_per_role",
			   "Sets how many subscriptions a role that is no superuser may have.",
			   &guc_subscriptions_per_role, 0, INT_MAX, PGC_SIGHUP, 0);
	DefineCustomEnumVariable("dtx.unattached",
							 "Sets what happens when a branch does what dtx could not undo.",
							 NULL, &guc_unattached, UNATTACHED_ERROR,
							 unattached_options, PGC_SUSET, 0,
							 check_int_setting, NULL, NULL);
	define_int("dtx.worker_idle_timeout",
			   "Gives the worker's process slot back after this time without work; 0 never.",
			   &guc_worker_idle_timeout, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS);

	MarkGUCPrefixReserved("dtx");
}
