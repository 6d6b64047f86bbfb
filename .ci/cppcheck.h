/*
 * cppcheck.h
 *		PostgreSQL's macros, as far as cppcheck has to understand them: its
 *		headers are too much for it. Only .ci/lint includes this.
 */
#include <stdlib.h>

#define foreach(cell, list) for (cell = list_head(list); cell != NULL; cell = lnext(list, cell))
#define dlist_foreach(iter, lhead) \
	for (iter.cur = (lhead)->head.next; iter.cur != &(lhead)->head; iter.cur = iter.cur->next)
#define dlist_foreach_modify(iter, lhead) dlist_foreach(iter, lhead)

/* an ERROR does not come back */
#define LOG 15
#define WARNING 19
#define ERROR 21
#define FATAL 22
#define PANIC 23
#define ereport(level, rest) do { report(rest); if ((level) >= ERROR) abort(); } while (0)
#define aclcheck_error(...) abort()

#define PG_TRY() do { if (setjmp_succeeded()) {
#define PG_CATCH() } else {
#define PG_FINALLY() } {
#define PG_END_TRY() } } while (0)
#define PG_RE_THROW() abort()

#define PG_FUNCTION_ARGS FunctionCallInfo fcinfo
#define PG_FUNCTION_INFO_V1(name) extern Datum name(PG_FUNCTION_ARGS)
#define PG_RETURN_DATUM(x) return (x)
#define PG_RETURN_NULL() do { fcinfo->isnull = true; return 0; } while (0)
#define PG_RETURN_VOID() return 0
#define PG_MODULE_MAGIC extern int module_magic
#define PGDLLEXPORT
#define lengthof(array) (sizeof(array) / sizeof((array)[0]))
#define Max(x, y) ((x) > (y) ? (x) : (y))
#define Min(x, y) ((x) < (y) ? (x) : (y))
#define unlikely(x) (x)
#define likely(x) (x)
#define UINT64_FORMAT "%lu"
#define INT64_FORMAT "%ld"
