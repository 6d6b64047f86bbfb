/*
 * net_change.c
 *		Adding up the changes of a key.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "at/net_change.h"
#include "at/undo_log.h"
#include "common/hashfn.h"
#include "core/errors.h"
#include "miscadmin.h"
#include "utils/datum.h"

Step
step_of(Relation rel, AttachedRelation *ar, char op, HeapTuple before, HeapTuple after)
{
	Step		step = {.before = before, .after = after};

	if ((op != UNDO_INSERT && op != UNDO_UPDATE && op != UNDO_DELETE && op != UNDO_KEY) ||
		(before == NULL) != (op == UNDO_INSERT) ||
		(after == NULL) != (op == UNDO_DELETE || op == UNDO_KEY))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("entry of dtx.undo_log has unknown kind \"%c\", or not the images of its kind", op)));
	step.moved_away = op == UNDO_KEY;
	/* capture has written of such an update that the old key was left, too */
	if (op == UNDO_UPDATE && !key_identical(ar, before, after, RelationGetDescr(rel)))
	{
		step.moved_from = before;
		step.before = NULL;
	}
	return step;
}

HeapTuple
step_key(const Step *step)
{
	return step->before != NULL ? step->before : step->after;
}

typedef struct SortKey
{
	AttachedRelation *ar;
	TupleDesc	desc;
} SortKey;

static int
compare_steps(const void *a, const void *b, void *arg)
{
	const Step *sa = a;
	const Step *sb = b;
	SortKey    *key = arg;
	int			order = key_compare(key->ar, step_key(sa), step_key(sb), key->desc);

	if (order != 0)
		return order;
	return sa->seq < sb->seq ? -1 : sa->seq > sb->seq ? 1 : 0;
}

void
steps_sort(Relation rel, AttachedRelation *ar, Step *steps, int n)
{
	SortKey		key = {ar, RelationGetDescr(rel)};

	if (n > 1)
		qsort_arg(steps, n, sizeof(Step), compare_steps, &key);
}

int
steps_last_run(Relation rel, AttachedRelation *ar, const Step *steps, int n)
{
	int			first = n - 1;

	while (first > 0 && steps[first - 1].shape == steps[n - 1].shape &&
		   key_compare(ar, step_key(&steps[first - 1]), step_key(&steps[n - 1]),
					   RelationGetDescr(rel)) == 0)
		first--;
	return first;
}

/* A state of the key that a step leaves or enters. */
typedef struct State
{
	HeapTuple	image;			/* NULL: no row */
	uint32		hash;
	bool		struck;
} State;

static uint32
hash_image(HeapTuple image, TupleDesc desc, const ShapeMap *map)
{
	uint32		hash = 1;

	if (image == NULL)
		return 0;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool		isnull;
		Datum		value;

		if (!map->present[i])
			continue;
		value = heap_getattr(image, i + 1, desc, &isnull);
		hash = hash_combine(hash, isnull ? 0 : datum_image_hash(value, att->attbyval, att->attlen));
	}
	return hash;
}

static bool
same_image(HeapTuple a, HeapTuple b, TupleDesc desc, const ShapeMap *map)
{
	if (a == NULL || b == NULL)
		return a == b;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool		anull,
					bnull;
		Datum		avalue,
					bvalue;

		if (!map->present[i])
			continue;
		avalue = heap_getattr(a, i + 1, desc, &anull);
		bvalue = heap_getattr(b, i + 1, desc, &bnull);
		if (anull != bnull ||
			(!anull && !datum_image_eq(avalue, bvalue, att->attbyval, att->attlen)))
			return false;
	}
	return true;
}

static int
compare_states(const void *a, const void *b)
{
	uint32		ha = ((const State *) a)->hash;
	uint32		hb = ((const State *) b)->hash;

	return ha < hb ? -1 : ha > hb ? 1 : 0;
}

/* The states that the steps leave, or enter, sorted by hash. */
static State *
states_of(const Step *steps, int n, bool entered, TupleDesc desc, const ShapeMap *map)
{
	State	   *states = palloc(n * sizeof(State));

	for (int i = 0; i < n; i++)
	{
		states[i].image = entered ? steps[i].after : steps[i].before;
		states[i].hash = hash_image(states[i].image, desc, map);
		states[i].struck = false;
	}
	qsort(states, n, sizeof(State), compare_states);
	return states;
}

/* Strike out pairs of equal states. */
static void
strike_out(State *left, State *entered, int n, TupleDesc desc, const ShapeMap *map)
{
	int			start = 0;

	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		/* before start all are struck out or have smaller hashes */
		while (start < n && (entered[start].struck || entered[start].hash < left[i].hash))
			start++;
		for (int j = start; j < n && entered[j].hash == left[i].hash; j++)
			if (!entered[j].struck && same_image(left[i].image, entered[j].image, desc, map))
			{
				left[i].struck = entered[j].struck = true;
				break;
			}
	}
}

/* The one state that is not struck out; *count: how many are not. */
static HeapTuple
remaining(const State *states, int n, int *count)
{
	HeapTuple	image = NULL;

	*count = 0;
	for (int i = 0; i < n; i++)
		if (!states[i].struck)
		{
			image = states[i].image;
			(*count)++;
		}
	return image;
}

bool
steps_add_up(Relation rel, AttachedRelation *ar, const ShapeMap *map,
			 const Step *steps, int n, Step *net, Oid role)
{
	TupleDesc	desc = RelationGetDescr(rel);
	State	   *left;
	State	   *entered;
	int			starts,
				ends,
				arrivals = 0;

	*net = steps[0];
	if (n == 1)
		return true;
	left = states_of(steps, n, false, desc, map);
	entered = states_of(steps, n, true, desc, map);
	strike_out(left, entered, n, desc, map);
	net->before = remaining(left, n, &starts);
	net->after = remaining(entered, n, &ends);
	if (starts > 1 || ends > 1)
		ereport(ERROR,
				(errcode(ERRCODE_DTX_CONFLICT),
				 errmsg("the changes of row %s of \"%s\" do not follow from each other",
						key_describe(ar, step_key(steps), desc, role), RelationGetRelationName(rel)),
				 errdetail("The branch has also changed it in a way that the undo log does not know; see dtx.unattached.")));
	if (starts == 0)
		return false;
	net->moved_from = NULL;
	net->moved_away = false;
	for (int i = 0; i < n; i++)
	{
		net->moved_away |= steps[i].moved_away;
		if (steps[i].moved_from != NULL)
		{
			net->moved_from = steps[i].moved_from;
			arrivals++;
		}
	}
	/* more than one row came here: which one is there now, the steps do not tell */
	if (arrivals > 1)
		net->moved_from = NULL;
	return true;
}
