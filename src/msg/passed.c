/*
 * passed.c
 *		Which transactions are over: snapshots, to keep and to compare.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "lib/qunique.h"
#include "lib/stringinfo.h"
#include "msg/passed.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"

static int
compare_xids(const void *a, const void *b)
{
	uint64		xa = *(const uint64 *) a;
	uint64		xb = *(const uint64 *) b;

	return xa < xb ? -1 : xa > xb ? 1 : 0;
}

Passed *
passed_nothing(void)
{
	Passed	   *passed = palloc0(sizeof(Passed));

	passed->xmin = passed->xmax = FirstNormalTransactionId;
	return passed;
}

Passed *
passed_from_datum(Datum snapshot)
{
	/* xmin:xmax:xip,xip,... */
	char	   *text = OidOutputFunctionCall(F_PG_SNAPSHOT_OUT, snapshot);
	Passed	   *passed = palloc0(sizeof(Passed));
	char	   *p;

	passed->xmin = strtoull(text, &p, 10);
	passed->xmax = strtoull(p + 1, &p, 10);
	passed->xip = palloc((strlen(p) + 1) * sizeof(uint64));
	while (p[0] != '\0' && p[1] != '\0')
		passed->xip[passed->nxip++] = strtoull(p + 1, &p, 10);
	pfree(text);
	return passed;
}

Datum
passed_to_datum(const Passed *passed)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, UINT64_FORMAT ":" UINT64_FORMAT ":", passed->xmin, passed->xmax);
	for (int i = 0; i < passed->nxip; i++)
		appendStringInfo(&text, "%s" UINT64_FORMAT, i > 0 ? "," : "", passed->xip[i]);
	return DirectFunctionCall1(pg_snapshot_in, CStringGetDatum(text.data));
}

/* A transaction id of a snapshot, which is not older than two billion, in full. */
static uint64
widen(TransactionId xid, uint64 next)
{
	return next - (uint32) ((uint32) next - xid);
}

/* A transaction that is being prepared is among the running ones twice for a moment:
 * for its session still, and as a prepared one already. */
static void
sort_xids(Passed *passed)
{
	qsort(passed->xip, passed->nxip, sizeof(uint64), compare_xids);
	passed->nxip = (int) qunique(passed->xip, passed->nxip, sizeof(uint64), compare_xids);
}

Passed *
passed_now(Snapshot snapshot)
{
	Passed	   *passed = palloc0(sizeof(Passed));
	FullTransactionId own = GetTopFullTransactionIdIfAny();
	/* not before the snapshot's xmax */
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());

	passed->xmin = widen(snapshot->xmin, next);
	passed->xmax = widen(snapshot->xmax, next);
	passed->xip = palloc((snapshot->xcnt + 1) * sizeof(uint64));
	for (uint32 i = 0; i < snapshot->xcnt; i++)
		passed->xip[passed->nxip++] = widen(snapshot->xip[i], next);
	/* a snapshot does not name the transaction that takes it, which is not over */
	if (FullTransactionIdIsValid(own) && U64FromFullTransactionId(own) < passed->xmax)
	{
		passed->xip[passed->nxip++] = U64FromFullTransactionId(own);
		passed->xmin = Min(passed->xmin, U64FromFullTransactionId(own));
	}
	sort_xids(passed);
	return passed;
}

bool
passed_is_over(const Passed *passed, uint64 xid)
{
	return xid < passed->xmax &&
		bsearch(&xid, passed->xip, passed->nxip, sizeof(uint64), compare_xids) == NULL;
}

Passed *
passed_copy(const Passed *passed)
{
	Passed	   *copy = palloc(sizeof(Passed));

	*copy = *passed;
	copy->xip = palloc(Max(passed->nxip, 1) * sizeof(uint64));
	if (passed->nxip > 0)
		memcpy(copy->xip, passed->xip, passed->nxip * sizeof(uint64));
	return copy;
}

void
passed_free(Passed *passed)
{
	pfree(passed->xip);
	pfree(passed);
}

Passed *
passed_either(const Passed *a, const Passed *b)
{
	Passed	   *either = palloc0(sizeof(Passed));

	either->xmax = Max(a->xmax, b->xmax);
	either->xip = palloc((a->nxip + b->nxip + 1) * sizeof(uint64));
	for (int i = 0; i < a->nxip; i++)
		if (!passed_is_over(b, a->xip[i]))
			either->xip[either->nxip++] = a->xip[i];
	for (int i = 0; i < b->nxip; i++)
		if (!passed_is_over(a, b->xip[i]))
			either->xip[either->nxip++] = b->xip[i];
	sort_xids(either);
	either->xmin = either->nxip > 0 ? either->xip[0] : either->xmax;
	return either;
}

bool
passed_covers(const Passed *passed, const Passed *other)
{
	if (other->xmax > passed->xmax)
		return false;
	for (int i = 0; i < passed->nxip; i++)
		if (passed_is_over(other, passed->xip[i]))
			return false;
	return true;
}
