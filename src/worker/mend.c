/*
 * mend.c
 *		Deadlines in tables, after the clock was set back.
 */
#include "postgres.h"

#include "core/own_sql.h"
#include "core/shmem.h"
#include "utils/guc.h"
#include "worker/dispatch.h"
#include "worker/worker.h"

/*
 * Each table in which the worker finds what is due when. What was planned in time to
 * come was planned before the clock was set back: its delay begins now. A time of day
 * that somebody has asked for (deliver_at) stays what it is. Who comes upon a row that
 * somebody has locked finds it the next time.
 */
static const char *const statements[] = {
#define AHEAD	" > clock_timestamp() + interval '1 s'"
	/* a peer may have it, whose answer was lost; it knows that until what comes after it is
	 * over (delivery.h: unknown), and so it is asked before that */
	"UPDATE dtx.undelivered SET next_attempt = clock_timestamp() + CASE WHEN state = 'r' AND EXISTS (SELECT FROM dtx.subscription s"
	" WHERE s.id = undelivered.subscription AND s.server <> 0) THEN interval '0' ELSE next_attempt - changed_at END, changed_at = clock_timestamp()"
	" WHERE ctid = ANY (ARRAY(SELECT ctid FROM dtx.undelivered WHERE state IN ('r', 'l') AND changed_at" AHEAD " FOR UPDATE SKIP LOCKED))",
	"UPDATE dtx.half_message SET next_check = clock_timestamp() + (next_check - planned_at), planned_at = clock_timestamp()"
	" WHERE ctid = ANY (ARRAY(SELECT ctid FROM dtx.half_message WHERE next_check IS NOT NULL AND planned_at" AHEAD " FOR UPDATE SKIP LOCKED))",
	"UPDATE dtx.notification SET next_attempt = clock_timestamp() + (next_attempt - planned_at), planned_at = clock_timestamp()"
	" WHERE ctid = ANY (ARRAY(SELECT ctid FROM dtx.notification WHERE next_attempt IS NOT NULL AND planned_at" AHEAD " FOR UPDATE SKIP LOCKED))",
	"UPDATE dtx.expectation SET next_attempt = clock_timestamp() + (next_attempt - planned_at), planned_at = clock_timestamp()"
	" WHERE ctid = ANY (ARRAY(SELECT ctid FROM dtx.expectation WHERE next_attempt IS NOT NULL AND planned_at" AHEAD " FOR UPDATE SKIP LOCKED))",
	"UPDATE dtx.target SET not_before = clock_timestamp() + (not_before - planned_at), planned_at = clock_timestamp()"
	" WHERE ctid = ANY (ARRAY(SELECT ctid FROM dtx.target WHERE not_before IS NOT NULL AND planned_at" AHEAD " FOR UPDATE SKIP LOCKED))",
	"UPDATE dtx.global SET deadline = clock_timestamp() + (deadline - opened_at), opened_at = clock_timestamp()"
	" WHERE ctid = ANY (ARRAY(SELECT ctid FROM dtx.global WHERE state = 'o' AND opened_at" AHEAD " FOR UPDATE SKIP LOCKED))",
#undef AHEAD
};

void
deadlines_mend(void *arg)
{
	OwnSql		sql;

	worker_begin();
	own_sql_begin(&sql);
	/* of the results that are kept, few are still to be told, and an index has these */
	(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	for (int i = 0; i < lengthof(statements); i++)
		note_garbage(own_sql(statements[i], 0, NULL, NULL, NULL));
	own_sql_end(&sql);
	worker_commit(false);
}
