/*
 * endpoint.c
 *		HTTP endpoints: their options.
 *
 * The server says where it is, which everybody may read; secrets, tokens and
 * headers are the user mapping's.
 */
#include "postgres.h"

#include <curl/curl.h>
#include <limits.h>

#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "net/endpoint.h"
#include "net/peer.h"
#include "net/webhook.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/jsonb.h"

#define DEFAULT_MAX_REQUESTS	32
#define MAX_MAX_REQUESTS		64
#define MAX_TIMEOUT				300000	/* ms */
#define MAX_OPTION_SIZE			16384

static const struct
{
	const char *keyword;
	bool		in_mapping;
}			options[] = {
	{"url", false},
	{"allow_private", false},
	{"timeout", false},
	{"max_requests", false},
	{"receiver", false},
	{"sslrootcert", false},
	{"secret", true},
	{"token", true},
	{"headers", true},
	{"unsigned", true},
};

bool
endpoint_option_is_known(const char *keyword, bool in_mapping)
{
	for (int i = 0; i < lengthof(options); i++)
		if (strcmp(options[i].keyword, keyword) == 0 && options[i].in_mapping == in_mapping)
			return true;
	return false;
}

static void
refuse_value(const char *keyword, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("invalid value of option \"%s\"", keyword),
			 errdetail_internal("%s", detail)));
}

static void
check_url(const char *url)
{
	CURLU	   *handle = curl_url();
	char	   *scheme = NULL;
	char	   *part = NULL;
	const char *wrong = NULL;

	if (handle == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	if (curl_url_set(handle, CURLUPART_URL, url, 0) != CURLUE_OK ||
		curl_url_get(handle, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK)
		wrong = "It is not a URL, such as https://shop.example/notifications.";
	else if (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0)
		wrong = "Its scheme must be https or http.";
	else if (curl_url_get(handle, CURLUPART_USER, &part, 0) != CURLUE_NO_USER ||
			 curl_url_get(handle, CURLUPART_PASSWORD, &part, 0) != CURLUE_NO_PASSWORD)
		wrong = "It must not have a user or password, which everybody could read; the options secret, token and headers belong to the user mapping.";
	else if (curl_url_get(handle, CURLUPART_FRAGMENT, &part, 0) != CURLUE_NO_FRAGMENT)
		wrong = "It must not have a fragment.";
	curl_free(scheme);
	curl_free(part);
	curl_url_cleanup(handle);
	for (const char *p = url; *p; p++)
		if ((unsigned char) *p <= ' ' || *p == 0x7f)
			wrong = "It must not have blanks or control characters.";
	if (wrong != NULL)
		refuse_value("url", wrong);
}

static bool
parse_bool_option(const char *keyword, const char *value)
{
	bool		result;

	if (!parse_bool(value, &result))
		refuse_value(keyword, "It must be true or false.");
	return result;
}

static int
parse_int_option(const char *keyword, const char *value, int flags, int most)
{
	int			result;

	if (!parse_int(value, &result, flags, NULL) || result < 1 || result > most)
		refuse_value(keyword, flags == 0 ? psprintf("It must be a number from 1 to %d.", most) :
					 "It must be a time from 1ms to 5min, such as 10s.");
	return result;
}

/* A header's name is a token; its value has no control characters. */
static bool
header_is_valid(const char *name, const char *value)
{
	static const char *const own[] = {"webhook-id", "webhook-timestamp", "webhook-signature", "content-type",
	"content-length", "host", "transfer-encoding", "connection", "expect"};

	if (*name == '\0')
		return false;
	for (const char *p = name; *p; p++)
		if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
			  strchr("!#$%&'*+-.^_`|~", *p) != NULL))
			return false;
	for (const char *p = value; *p; p++)
		if ((unsigned char) *p < ' ' || *p == 0x7f)
			return false;
	for (int i = 0; i < lengthof(own); i++)
		if (pg_strcasecmp(name, own[i]) == 0)
			return false;
	return true;
}

/* NULL: the text is no JSON; its error would show what is secret. */
static Jsonb *
read_jsonb(const char *text)
{
	MemoryContext context = CurrentMemoryContext;
	Jsonb	   *volatile jsonb = NULL;

	PG_TRY();
	{
		jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		if (ERRCODE_TO_CATEGORY(geterrcode()) != ERRCODE_DATA_EXCEPTION)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
	return jsonb;
}

/* "Name: value" of each member of a JSON object, and the values. False: it is none of
 * valid headers. */
static bool
parse_headers(const char *text, List **headers, List **values)
{
	Jsonb	   *jsonb = read_jsonb(text);
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *name = NULL;

	if (jsonb == NULL || !JB_ROOT_IS_OBJECT(jsonb))
		return false;
	it = JsonbIteratorInit(&jsonb->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE)
		{
			char	   *value;

			if (v.type != jbvString)
				return false;
			value = pnstrdup(v.val.string.val, v.val.string.len);
			if (!header_is_valid(name, value))
				return false;
			/* curl takes "Name:" for "without that header" */
			*headers = lappend(*headers, *value == '\0' ? psprintf("%s;", name) : psprintf("%s: %s", name, value));
			*values = lappend(*values, value);
		}
	}
	return true;
}

void
endpoint_option_check(const char *keyword, const char *value)
{
	List	   *headers = NIL;
	List	   *values = NIL;

	/* the worker, which is there for all, goes through them for each request */
	if (strlen(value) > MAX_OPTION_SIZE)
		refuse_value(keyword, "It must not be longer than 16 kB.");
	if (strcmp(keyword, "url") == 0)
		check_url(value);
	else if (strcmp(keyword, "allow_private") == 0)
	{
		if (parse_bool_option(keyword, value) && !superuser())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("allow_private=true is superuser-only"),
					 errdetail("It lets requests go to addresses that only this machine or its network can reach.")));
	}
	else if (strcmp(keyword, "sslrootcert") == 0)
		peer_option_check(keyword, value);
	else if (strcmp(keyword, "unsigned") == 0)
		(void) parse_bool_option(keyword, value);
	else if (strcmp(keyword, "timeout") == 0)
		(void) parse_int_option(keyword, value, GUC_UNIT_MS, MAX_TIMEOUT);
	else if (strcmp(keyword, "max_requests") == 0)
		(void) parse_int_option(keyword, value, 0, MAX_MAX_REQUESTS);
	else if (strcmp(keyword, "secret") == 0 && webhook_keys(value) == NIL)
		refuse_value(keyword, "It must be " WEBHOOK_SECRET_PREFIX " and 24 to 64 bytes in base64, or several such, 10 at most, with blanks between them.");
	else if (strcmp(keyword, "token") == 0 && !header_is_valid("Authorization", value))
		refuse_value(keyword, "It must not have control characters.");
	else if (strcmp(keyword, "headers") == 0 && !parse_headers(value, &headers, &values))
		refuse_value(keyword, "It must be a JSON object of strings, such as {\"X-Key\": \"...\"}, and not have headers that a request has already.");
}

static const char *
option_value(List *list, const char *keyword)
{
	ListCell   *cell;

	foreach(cell, list)
		if (strcmp(lfirst_node(DefElem, cell)->defname, keyword) == 0)
			return defGetString(lfirst_node(DefElem, cell));
	return NULL;
}

bool
endpoint_is_http(Oid serverid)
{
	ForeignServer *server = GetForeignServer(serverid);

	/* servers of other wrappers have options of their own */
	return strcmp(GetForeignDataWrapper(server->fdwid)->fdwname, "dtx_fdw") == 0 &&
		option_value(server->options, "url") != NULL;
}

static List *
split_words(const char *text)
{
	char	   *copy = pstrdup(text);
	List	   *words = NIL;

	for (char *word = strtok(copy, " \t\r\n\f\v"); word != NULL; word = strtok(NULL, " \t\r\n\f\v"))
		words = lappend(words, word);
	return words;
}

static char *
to_utf8(const char *text)
{
	return pg_server_to_any(text, strlen(text), PG_UTF8);
}

Endpoint *
endpoint_load(Oid serverid, Oid role)
{
	ForeignServer *server = GetForeignServer(serverid);
	UserMapping *mapping = GetUserMapping(role, serverid);
	Endpoint   *endpoint = palloc0(sizeof(Endpoint));
	const char *value;

	endpoint->url = option_value(server->options, "url");
	value = option_value(server->options, "allow_private");
	endpoint->allow_private = value != NULL && parse_bool_option("allow_private", value);
	value = option_value(server->options, "timeout");
	endpoint->timeout = value == NULL ? 0 : parse_int_option("timeout", value, GUC_UNIT_MS, MAX_TIMEOUT);
	value = option_value(server->options, "max_requests");
	endpoint->max_requests = value == NULL ? DEFAULT_MAX_REQUESTS :
		parse_int_option("max_requests", value, 0, MAX_MAX_REQUESTS);
	endpoint->sslrootcert = option_value(server->options, "sslrootcert");
	value = option_value(mapping->options, "headers");
	if (value != NULL && !parse_headers(to_utf8(value), &endpoint->headers, &endpoint->secrets))
		refuse_value("headers", "It must be a JSON object of strings.");
	value = option_value(mapping->options, "token");
	if (value != NULL)
	{
		endpoint->headers = lappend(endpoint->headers, psprintf("Authorization: Bearer %s", to_utf8(value)));
		endpoint->secrets = lappend(endpoint->secrets, to_utf8(value));
	}
	value = option_value(mapping->options, "secret");
	if (value != NULL)
	{
		endpoint->keys = webhook_keys(value);
		endpoint->secrets = list_concat(endpoint->secrets, split_words(value));
	}
	else
		value = option_value(mapping->options, "unsigned");
	if (endpoint->keys == NIL && (value == NULL || !parse_bool_option("unsigned", value)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the user mapping for server \"%s\" has no secret to sign notifications with", server->servername),
				 errhint("Add the option secret, '" WEBHOOK_SECRET_PREFIX "...', to the user mapping; or unsigned 'true'.")));
	return endpoint;
}

void
endpoint_redact(const Endpoint *endpoint, char *text)
{
	ListCell   *cell;

	foreach(cell, endpoint->secrets)
	{
		const char *secret = lfirst(cell);
		Size		length = strlen(secret);

		/* what is that short is no secret */
		if (length < 4)
			continue;
		for (char *p = strstr(text, secret); p != NULL; p = strstr(p, secret))
			memset(p, '*', length);
		/* or the beginning of it, where the text was cut */
		for (char *p = strlen(text) > length ? text + strlen(text) - length : text; strlen(p) >= 4; p++)
			if (strncmp(p, secret, strlen(p)) == 0)
				memset(p, '*', strlen(p));
	}
}
