/*
 * care.c
 *		dtx.handling: which message is being handled, after a crash.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "core/own_sql.h"
#include "core/shmem.h"
#include "msg/care.h"

int64
care_begin(const Subscription *subscription, Care *care)
{
	Oid			types[] = {INT4OID, INT4OID};
	Datum		values[] = {Int32GetDatum(subscription->id), Int32GetDatum(subscription->generation)};
	int64		suspect = 0;
	OwnSql		sql;

	*care = (Care) {0};
	if (!shared->unclean)
		return 0;
	care->fresh = care->retried = subscription->batch_size;
	own_sql_begin(&sql);
	if (own_sql("SELECT boot, fresh, retried, message FROM dtx.handling WHERE subscription = $1 AND generation = $2",
				lengthof(types), types, values, NULL) > 0)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;

		if (DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull)) == (int64) shared->boot)
		{
			/* a process before this one has begun */
			care->fresh = DatumGetInt32(SPI_getbinval(tuple, desc, 2, &isnull));
			care->retried = DatumGetInt32(SPI_getbinval(tuple, desc, 3, &isnull));
		}
		else
		{
			Datum		message = SPI_getbinval(tuple, desc, 4, &isnull);

			suspect = isnull ? 0 : DatumGetInt64(message);
		}
	}
	own_sql_end(&sql);
	return suspect;
}

static void
write_row(const Subscription *subscription, const Care *care)
{
	Oid			types[] = {INT4OID, INT4OID, INT8OID, INT4OID, INT4OID, INT8OID};
	Datum		values[] = {Int32GetDatum(subscription->id), Int32GetDatum(subscription->generation),
		Int64GetDatum((int64) shared->boot), Int32GetDatum(care->fresh), Int32GetDatum(care->retried),
	Int64GetDatum(care->claimed)};
	char		nulls[] = "      ";
	OwnSql		sql;

	if (care->claimed == 0)
		nulls[5] = 'n';
	own_sql_begin(&sql);
	(void) own_sql("INSERT INTO dtx.handling (subscription, generation, boot, fresh, retried, message)"
				   " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (subscription) DO UPDATE SET generation = excluded.generation,"
				   " boot = excluded.boot, fresh = excluded.fresh, retried = excluded.retried, message = excluded.message",
				   lengthof(types), types, values, nulls);
	own_sql_end(&sql);
}

void
care_claim(const Subscription *subscription, Care *care, int64 message)
{
	care->claimed = message;
	write_row(subscription, care);
	ForceSyncCommit();
}

void
care_release(const Subscription *subscription, Care *care, bool retried, bool handled)
{
	care->claimed = 0;
	if (handled && retried)
		care->retried = Max(care->retried - 1, 0);
	else if (handled)
		care->fresh = Max(care->fresh - 1, 0);
	write_row(subscription, care);
}
