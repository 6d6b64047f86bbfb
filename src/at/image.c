/*
 * image.c
 *		Images of rows, and the shapes that tell what is in them.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "at/image.h"
#include "catalog/pg_type.h"
#include "core/compat.h"
#include "core/relations.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

/* The part of a tuple's header that tells only where it is and who sees it. */
#define STRIPPED	offsetof(HeapTupleHeaderData, t_infomask2)

static uint64 shape_epoch = 1;

void
shape_forget(void)
{
	shape_epoch++;
}

bytea *
image_of(HeapTuple tuple, TupleDesc desc)
{
	HeapTuple	complete = tuple;
	bytea	   *image;
	Size		length;

	if (HeapTupleHasExternal(complete))
		complete = toast_flatten_tuple(complete, desc);
	if (HeapTupleHeaderGetNatts(complete->t_data) < desc->natts)
		complete = heap_expand_tuple(complete, desc);
	length = complete->t_len - STRIPPED;
	image = palloc(VARHDRSZ + length);
	SET_VARSIZE(image, VARHDRSZ + length);
	memcpy(VARDATA(image), (char *) complete->t_data + STRIPPED, length);
	return image;
}

HeapTuple
image_tuple(bytea *image)
{
	Size		length = VARSIZE_ANY_EXHDR(image) + STRIPPED;
	HeapTuple	tuple = palloc0(HEAPTUPLESIZE + length);

	tuple->t_len = length;
	ItemPointerSetInvalid(&tuple->t_self);
	tuple->t_tableOid = InvalidOid;
	tuple->t_data = (HeapTupleHeader) ((char *) tuple + HEAPTUPLESIZE);
	memcpy((char *) tuple->t_data + STRIPPED, VARDATA_ANY(image), length - STRIPPED);
	return tuple;
}

int
image_natts(HeapTuple tuple)
{
	return HeapTupleHeaderGetNatts(tuple->t_data);
}

/* Find a shape's row; the caller ends the scan. NULL when there is none. */
static HeapTuple
find_shape(OwnScan *scan, Oid relid, int32 shape)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], Anum_relation_shape_relation, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	ScanKeyInit(&keys[1], Anum_relation_shape_shape, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(shape));
	own_scan_begin(scan, OWN_RELATION_SHAPE, OWN_RELATION_SHAPE_IDX, AccessShareLock, 2, keys);
	return own_scan_next(scan);
}

void
shape_record(Relation rel, AttachedRelation *ar)
{
	TupleDesc	desc = RelationGetDescr(rel);
	Datum		values[Natts_relation_shape] = {0};
	bool		nulls[Natts_relation_shape] = {0};
	Datum	   *attnums = palloc(desc->natts * sizeof(Datum));
	Datum	   *types = palloc(desc->natts * sizeof(Datum));
	Datum	   *typmods = palloc(desc->natts * sizeof(Datum));
	Datum	   *names = palloc(desc->natts * sizeof(Datum));
	OwnScan		scan;
	HeapTuple	tuple;
	bool		there;
	bool		committed = false;
	int			n = 0;

	if (ar->shape_recorded || ar->shape_epoch == shape_epoch)
		return;
	tuple = find_shape(&scan, ar->relid, ar->shape);
	there = HeapTupleIsValid(tuple);
	if (there)
		committed = !TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));
	own_scan_end(&scan);
	/* an own row may yet be rolled back: it is good until then */
	ar->shape_recorded = there && committed;
	ar->shape_epoch = shape_epoch;
	if (there)
		return;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped)
			continue;
		attnums[n] = Int16GetDatum(att->attnum);
		types[n] = ObjectIdGetDatum(att->atttypid);
		typmods[n] = Int32GetDatum(att->atttypmod);
		names[n++] = CStringGetTextDatum(NameStr(att->attname));
	}
	values[Anum_relation_shape_relation - 1] = ObjectIdGetDatum(ar->relid);
	values[Anum_relation_shape_shape - 1] = Int32GetDatum(ar->shape);
	values[Anum_relation_shape_attnums - 1] =
		PointerGetDatum(construct_array(attnums, n, INT2OID, 2, true, TYPALIGN_SHORT));
	values[Anum_relation_shape_types - 1] =
		PointerGetDatum(construct_array(types, n, OIDOID, 4, true, TYPALIGN_INT));
	values[Anum_relation_shape_typmods - 1] =
		PointerGetDatum(construct_array(typmods, n, INT4OID, 4, true, TYPALIGN_INT));
	values[Anum_relation_shape_names - 1] =
		PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
	own_insert(OWN_RELATION_SHAPE, values, nulls);
	CommandCounterIncrement();
}

typedef struct ShapeRow
{
	int			n;
	int16	   *attnums;
	Oid		   *types;
	int32	   *typmods;
	Datum	   *names;
} ShapeRow;

static bool
read_shape(Oid relid, int32 shape, ShapeRow *row)
{
	OwnScan		scan;
	HeapTuple	tuple = find_shape(&scan, relid, shape);
	bool		found = HeapTupleIsValid(tuple);

	if (found)
	{
		ArrayType  *attnums = DatumGetArrayTypePCopy(own_column(&scan, tuple, Anum_relation_shape_attnums, NULL));
		ArrayType  *types = DatumGetArrayTypePCopy(own_column(&scan, tuple, Anum_relation_shape_types, NULL));
		ArrayType  *typmods = DatumGetArrayTypePCopy(own_column(&scan, tuple, Anum_relation_shape_typmods, NULL));
		ArrayType  *names = DatumGetArrayTypePCopy(own_column(&scan, tuple, Anum_relation_shape_names, NULL));

		row->attnums = (int16 *) ARR_DATA_PTR(attnums);
		row->types = (Oid *) ARR_DATA_PTR(types);
		row->typmods = (int32 *) ARR_DATA_PTR(typmods);
		deconstruct_array(names, TEXTOID, -1, false, TYPALIGN_INT, &row->names, NULL, &row->n);
	}
	own_scan_end(&scan);
	return found;
}

/* Does a type store its values as the column does now? */
static bool
same_storage(Form_pg_attribute att, Oid type)
{
	int16		length;
	bool		by_value;
	char		align;

	if (!SearchSysCacheExists1(TYPEOID, ObjectIdGetDatum(type)))
		return false;
	get_typlenbyvalalign(type, &length, &by_value, &align);
	return length == att->attlen && by_value == att->attbyval && align == att->attalign;
}

ShapeMap *
shape_map(Relation rel, AttachedRelation *ar, int32 shape)
{
	TupleDesc	desc = RelationGetDescr(rel);
	ShapeMap   *map = palloc0(sizeof(ShapeMap));
	ShapeRow	row;

	map->shape = shape;
	map->natts = desc->natts;
	map->present = palloc0(desc->natts * sizeof(bool));
	map->all_present = true;
	if (shape == ar->shape)
	{
		for (int i = 0; i < desc->natts; i++)
			map->present[i] = !TupleDescAttr(desc, i)->attisdropped;
		return map;
	}
	if (!read_shape(ar->relid, shape, &row))
	{
		map->conflict = "the columns of its images are not known";
		return map;
	}
	for (int i = 0; i < row.n; i++)
	{
		Form_pg_attribute att;

		if (row.attnums[i] > desc->natts)
			continue;
		att = TupleDescAttr(desc, row.attnums[i] - 1);
		if (att->attisdropped)
			continue;
		/* what needs a rewrite is refused while rows are in doubt; the rest
		 * leaves the bytes as they are */
		if (att->atttypid != row.types[i] && !same_storage(att, row.types[i]))
			map->conflict = psprintf("the type of column \"%s\" was changed", NameStr(att->attname));
		map->present[att->attnum - 1] = true;
	}
	for (int i = 0; i < desc->natts; i++)
		map->all_present = map->all_present &&
			(map->present[i] || TupleDescAttr(desc, i)->attisdropped);
	return map;
}

bool
image_equals_slot(HeapTuple image, TupleTableSlot *slot, const ShapeMap *map)
{
	TupleDesc	desc = slot->tts_tupleDescriptor;

	slot_getallattrs(slot);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool		isnull;
		Datum		value;

		if (!map->present[i])
			continue;
		value = heap_getattr(image, i + 1, desc, &isnull);
		if (isnull != slot->tts_isnull[i])
			return false;
		if (!isnull && !datum_image_eq(value, slot->tts_values[i], att->attbyval, att->attlen))
			return false;
	}
	return true;
}

TupleDesc
shape_descriptor(Relation rel, AttachedRelation *ar, int32 shape)
{
	TupleDesc	now = RelationGetDescr(rel);
	TupleDesc	desc;
	ShapeRow	row;

	if (shape == ar->shape)
		return CreateTupleDescCopy(now);
	if (!read_shape(ar->relid, shape, &row))
		return NULL;
	/* columns that are gone keep their place, length and alignment */
	desc = CreateTupleDescCopy(now);
	for (int i = 0; i < row.n; i++)
	{
		if (row.attnums[i] > desc->natts)
			return NULL;
		if (!SearchSysCacheExists1(TYPEOID, ObjectIdGetDatum(row.types[i])))
			return NULL;
		TupleDescInitEntry(desc, row.attnums[i], TextDatumGetCString(row.names[i]),
						   row.types[i], row.typmods[i], 0);
	}
	for (int i = 0; i < desc->natts; i++)
	{
		bool		there = false;

		for (int j = 0; j < row.n; j++)
			there |= row.attnums[j] == i + 1;
		TupleDescAttr(desc, i)->attisdropped |= !there;
	}
	dtx_descriptor_changed(desc);
	return desc;
}
