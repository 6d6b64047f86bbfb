/*
 * show.c
 *		What dtx_undo and dtx_locks show: images as jsonb.
 *
 * Who looks is not who made the types. So values are shown by their types' output
 * functions, which are C functions of superusers', and by nothing else: to_jsonb
 * would call casts to json that a type's owner has written. What is built in looks
 * as to_jsonb shows it.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "at/image.h"
#include "at/key.h"
#include "at/undo_log.h"
#include "catalog/pg_type.h"
#include "core/compat.h"
#include "core/readable.h"
#include "core/relations.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(dtx_image_decode);

/* A view must not fail, for all who look, on one value that jsonb has no room for:
 * so many bytes of a value are shown, and of a row, and so many levels. */
#define SHOWN_VALUE		(1024 * 1024)
#define SHOWN_ROW		(16 * 1024 * 1024)
#define SHOWN_LEVELS	50

typedef struct Shown
{
	DtxJsonb	state;
	int64		left;			/* of SHOWN_ROW */
	int			level;
} Shown;

/* May the caller see this relation's rows, all of them? */
static bool
may_read(Oid relid)
{
	return relation_is_readable(relid, GetUserId());
}

static JsonbValue
string_value(char *text)
{
	JsonbValue	v = {.type = jbvString};

	v.val.string.val = text;
	v.val.string.len = strlen(text);
	return v;
}

static JsonbValue
output_value(Datum value, Oid type)
{
	Oid			output;
	bool		is_varlena;

	getTypeOutputInfo(type, &output, &is_varlena);
	return string_value(OidOutputFunctionCall(output, value));
}

/* Numbers that JSON has are numbers. */
static JsonbValue
number_value(Datum value, Oid type)
{
	JsonbValue	v = {.type = jbvNumeric};
	Datum		number;

	switch (type)
	{
		case INT2OID:
			number = DirectFunctionCall1(int2_numeric, value);
			break;
		case INT4OID:
			number = DirectFunctionCall1(int4_numeric, value);
			break;
		case INT8OID:
			number = DirectFunctionCall1(int8_numeric, value);
			break;
		case NUMERICOID:
			number = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
			break;
		default:
			{
				char	   *text = output_value(value, type).val.string.val;

				/* infinities and NaN are none */
				if (strpbrk(text, "IiNn") != NULL)
					return string_value(text);
				number = DirectFunctionCall3(numeric_in, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid),
											 Int32GetDatum(-1));
			}
			break;
	}
	v.val.numeric = DatumGetNumeric(number);
	if (numeric_is_nan(v.val.numeric) || numeric_is_inf(v.val.numeric))
		return output_value(value, type);
	return v;
}

static void push_value(Shown *shown, JsonbIteratorToken token, Datum value, bool isnull, Oid type);

static void
push_row(Shown *shown, HeapTuple tuple, TupleDesc desc)
{
	dtx_push_jsonb(&shown->state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		JsonbValue	key;
		Datum		value;
		bool		isnull;

		if (att->attisdropped)
			continue;
		key = string_value(pstrdup(NameStr(att->attname)));
		dtx_push_jsonb(&shown->state, WJB_KEY, &key);
		value = heap_getattr(tuple, i + 1, desc, &isnull);
		push_value(shown, WJB_VALUE, value, isnull, att->atttypid);
	}
	dtx_push_jsonb(&shown->state, WJB_END_OBJECT, NULL);
}

static void
push_composite(Shown *shown, Datum value)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(value);
	TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header), HeapTupleHeaderGetTypMod(header));
	HeapTupleData tuple;

	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = header;
	push_row(shown, &tuple, desc);
	ReleaseTupleDesc(desc);
}

/* One dimension of an array; *next: its first element in items. */
static void
push_dimension(Shown *shown, int dimension, int ndims, const int *dims, const Datum *items, const bool *nulls,
			   int *next, Oid type)
{
	dtx_push_jsonb(&shown->state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; dimension < ndims && i < dims[dimension]; i++)
	{
		if (dimension + 1 < ndims)
			push_dimension(shown, dimension + 1, ndims, dims, items, nulls, next, type);
		else
		{
			push_value(shown, WJB_ELEM, items[*next], nulls[*next], type);
			(*next)++;
		}
	}
	dtx_push_jsonb(&shown->state, WJB_END_ARRAY, NULL);
}

static void
push_array(Shown *shown, Datum value, Oid type)
{
	ArrayType  *array = DatumGetArrayTypeP(value);
	int16		length;
	bool		by_value;
	char		align;
	Datum	   *items;
	bool	   *nulls;
	int			count;
	int			next = 0;

	get_typlenbyvalalign(type, &length, &by_value, &align);
	deconstruct_array(array, type, length, by_value, align, &items, &nulls, &count);
	push_dimension(shown, 0, ARR_NDIM(array), ARR_DIMS(array), items, nulls, &next, type);
}

/* The value of a type that JSON has no structure for. */
static JsonbValue
scalar_value(Datum value, Oid type)
{
	JsonbValue	v;
	char		buffer[MAXDATELEN + 1];
	Jsonb	   *jsonb;

	switch (type)
	{
		case BOOLOID:
			v.type = jbvBool;
			v.val.boolean = DatumGetBool(value);
			return v;
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
			return number_value(value, type);
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			(void) JsonEncodeDateTime(buffer, value, type, NULL);
			return string_value(pstrdup(buffer));
		case JSONBOID:
			/* what is json only need not fit into jsonb: it is shown as text */
			jsonb = DatumGetJsonbP(value);
			if (JsonbExtractScalar(&jsonb->root, &v))
				return v;
			v.type = jbvBinary;
			v.val.binary.data = &jsonb->root;
			v.val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
			return v;
		default:
			return output_value(value, type);
	}
}

/* Bytes that a value takes, as it is stored. */
static int64
size_of(Datum value, Oid type)
{
	int16		length = get_typlen(type);

	return length > 0 ? length : length == -1 ? (int64) toast_raw_datum_size(value) - VARHDRSZ :
		(int64) strlen(DatumGetCString(value)) + 1;
}

/* A value as to_jsonb shows it, but for casts. */
static void
push_value(Shown *shown, JsonbIteratorToken token, Datum value, bool isnull, Oid type)
{
	JsonbValue	v = {.type = jbvNull};
	Oid			element;
	int64		size;

	CHECK_FOR_INTERRUPTS();
	type = getBaseType(type);
	if (isnull)
	{
		dtx_push_jsonb(&shown->state, token, &v);
		return;
	}
	size = size_of(value, type);
	if (size > Min(shown->left, SHOWN_VALUE) || shown->level >= SHOWN_LEVELS)
	{
		v = string_value(psprintf("(" INT64_FORMAT " bytes)", size));
		dtx_push_jsonb(&shown->state, token, &v);
		return;
	}
	shown->left -= size;
	shown->level++;
	element = get_element_type(type);
	if (OidIsValid(element))
		push_array(shown, value, element);
	else if (get_typtype(type) == TYPTYPE_COMPOSITE)
		push_composite(shown, value);
	else
	{
		v = scalar_value(value, type);
		dtx_push_jsonb(&shown->state, token, &v);
	}
	shown->level--;
}

/*
 * An image as jsonb, or NULL when its shape is not known any more. Whoever has locked
 * the table does not hold up those who look why rows are locked.
 */
static Jsonb *
decode_image(Oid relid, int32 shape, bytea *bytes)
{
	JsonbValue	locked = string_value("(the table is locked)");
	Relation	rel;
	TupleDesc	desc;
	Jsonb	   *result = NULL;

	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		return JsonbValueToJsonb(&locked);
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
	{
		UnlockRelationOid(relid, AccessShareLock);
		return NULL;
	}
	desc = shape_descriptor(rel, attached_relation(rel), shape);
	if (desc != NULL)
	{
		HeapTuple	image = image_tuple(bytes);
		Shown		shown = {.left = SHOWN_ROW};

		/* columns that were added later are not in the image */
		for (int i = image_natts(image); i < desc->natts; i++)
			TupleDescAttr(desc, i)->attisdropped = true;
		dtx_descriptor_changed(desc);
		push_row(&shown, image, desc);
		result = JsonbValueToJsonb(shown.state.result);
	}
	relation_close(rel, AccessShareLock);
	return result;
}

/*
 * dtx.image_decode(entry tid, which "char"): the before ('b') or after ('a')
 * image of an entry of dtx.undo_log, or any that it has ('k'), as jsonb. It reads
 * the log itself, since nobody's bytes can be trusted to be an image, and shows
 * only rows that the caller may read.
 */
Datum
dtx_image_decode(PG_FUNCTION_ARGS)
{
	ItemPointerData tid = *(ItemPointer) PG_GETARG_POINTER(0);
	char		which = PG_GETARG_CHAR(1);
	Relation	log = own_open(OWN_UNDO_LOG, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(log, NULL);
	Jsonb	   *result = NULL;

	if (ItemPointerIsValid(&tid) &&
		ItemPointerGetBlockNumber(&tid) < RelationGetNumberOfBlocks(log) &&
		table_tuple_fetch_row_version(log, &tid, GetActiveSnapshot(), slot))
	{
		bool		isnull;
		Oid			relid = DatumGetObjectId(slot_getattr(slot, Anum_undo_log_relation, &isnull));
		int32		shape = DatumGetInt32(slot_getattr(slot, Anum_undo_log_shape, &isnull));
		Datum		image = slot_getattr(slot, which == 'b' ? Anum_undo_log_before : Anum_undo_log_after,
										 &isnull);

		if (isnull && which == 'k')
			image = slot_getattr(slot, Anum_undo_log_before, &isnull);
		if (!isnull && may_read(relid))
			result = decode_image(relid, shape, DatumGetByteaPP(image));
	}
	ExecDropSingleTupleTableSlot(slot);
	table_close(log, AccessShareLock);
	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(result);
}
