// Writes zod.json: schemas as zod emits them, for the parameters of tools. Run it where zod and zod-to-json-schema
// are installed (package.json has the versions):
//     npm install && node zod.mjs > zod.json
import { z } from "zod";
import { z as z3 } from "zod/v3";
import { zodToJsonSchema } from "zod-to-json-schema";

const Category = z.object({
  name: z.string(),
  get children() {
    return z.array(Category);
  },
});
const Json = z.lazy(() =>
  z.union([z.string().max(5), z.number(), z.boolean(), z.null(), z.array(Json).max(2), z.record(z.string(), Json)]),
);
const Event = z.discriminatedUnion("kind", [
  z.object({ kind: z.literal("click"), x: z.int(), y: z.int() }),
  z.object({ kind: z.literal("key"), code: z.string().length(1), shift: z.boolean().optional() }),
  z.object({ kind: z.literal("wait"), ms: z.number().positive().max(60000) }),
]);
const base = z.object({ id: z.uuid(), created: z.iso.datetime() });
const Named = base.meta({ id: "Base" });

const four = {
  no_arguments: z.object({}),
  strings: z.object({ any: z.string(), short: z.string().min(1).max(8), exact: z.string().length(3) }),
  string_parts: z.object({ start: z.string().startsWith("ab"), end: z.string().endsWith("z"), has: z.string().includes("-") }),
  regex: z.object({ sku: z.string().regex(/^[A-Z]{2}-\d{4}$/) }),
  regex_flags: z.object({ word: z.string().regex(/^hello$/i) }),
  lookahead: z.object({ password: z.string().regex(/^(?=.*[A-Z])(?=.*\d).{8,}$/) }),
  cases: z.object({ lower: z.string().lowercase(), upper: z.string().uppercase() }),
  email: z.object({ to: z.email(), cc: z.array(z.email()).max(2).optional() }),
  html5_email: z.object({ to: z.email({ pattern: z.regexes.html5Email }) }),
  url: z.object({ link: z.url(), site: z.httpUrl() }),
  uuids: z.object({ any: z.uuid(), four: z.uuidv4(), seven: z.uuidv7(), guid: z.guid() }),
  identifiers: z.object({ cuid: z.cuid(), cuid2: z.cuid2(), ulid: z.ulid(), xid: z.xid(), ksuid: z.ksuid(), nano: z.nanoid() }),
  network: z.object({ four: z.ipv4(), six: z.ipv6(), range: z.cidrv4(), host: z.hostname() }),
  encodings: z.object({ base64: z.base64(), base64url: z.base64url(), hex: z.hex(), jwt: z.jwt() }),
  emoji: z.object({ mood: z.emoji() }),
  phone: z.object({ number: z.e164() }),
  dates: z.object({ at: z.iso.datetime(), day: z.iso.date(), time: z.iso.time(), span: z.iso.duration() }),
  datetime_offset: z.object({ at: z.iso.datetime({ offset: true, precision: 3 }) }),
  numbers: z.object({ any: z.number(), safe: z.int(), byte: z.int32().min(0).max(255), unsigned: z.uint32(), single: z.float32(), double: z.float64() }),
  bounds: z.object({ share: z.number().min(0).max(1), over: z.number().gt(0), under: z.number().lt(100), even: z.number().multipleOf(2), cents: z.number().multipleOf(0.01) }),
  big_step: z.object({ price: z.number().multipleOf(0.01), amount: z.int().multipleOf(1000) }),
  literals: z.object({ one: z.literal("a"), many: z.literal(["a", 1, true, null]) }),
  enums: z.object({ color: z.enum(["red", "green", "blue"]), level: z.enum({ Low: 1, High: 2 }) }),
  optional: z.object({ a: z.string().optional(), b: z.number().nullable(), c: z.boolean().nullish(), d: z.string().default("x"), e: z.number().prefault(1) }),
  tuples: z.object({ point: z.tuple([z.number(), z.number()]), rest: z.tuple([z.string()], z.int()) }),
  arrays: z.object({ tags: z.array(z.string()).min(1).max(3), pair: z.array(z.int()).length(2), rest: z.array(z.boolean()).nonempty() }),
  records: z.object({ scores: z.record(z.string(), z.number()), labels: z.record(z.string().regex(/^[a-z]+$/), z.string()) }),
  enum_records: z.object({ all: z.record(z.enum(["a", "b"]), z.int()), some: z.partialRecord(z.enum(["a", "b"]), z.int()) }),
  short_keys: z.object({ map: z.record(z.string().max(3), z.boolean()) }),
  union: z.object({ value: z.union([z.string(), z.int(), z.boolean()]) }),
  overlapping_union: z.object({ target: z.union([z.object({ id: z.int() }), z.object({ name: z.string() })]) }),
  discriminated: z.object({ event: Event }),
  discriminated_list: z.object({ events: z.array(Event).max(3) }),
  nested_discriminated: z.object({
    shape: z.discriminatedUnion("type", [
      z.object({ type: z.literal("circle"), radius: z.number().positive() }),
      z.discriminatedUnion("type", [
        z.object({ type: z.literal("square"), side: z.number() }),
        z.object({ type: z.literal("rect"), width: z.number(), height: z.number() }),
      ]),
    ]),
  }),
  intersection: z.object({ both: z.intersection(z.object({ a: z.string() }), z.object({ b: z.int() })) }),
  extended: base.extend({ title: z.string(), base: base.pick({ id: true }) }),
  strict: z.strictObject({ a: z.string() }),
  loose: z.looseObject({ a: z.string() }),
  catchall: z.object({ a: z.string() }).catchall(z.int()),
  recursive: z.object({ root: Category }),
  json: z.object({ value: Json }),
  json_type: z.object({ value: z.json() }),
  template_literals: z.object({ size: z.templateLiteral([z.int(), z.enum(["px", "em"])]), tag: z.templateLiteral(["v", z.literal(["1", "2"])]) }),
  pipe: z.object({ count: z.string().regex(/^\d+$/).pipe(z.transform(Number)) }),
  refined: z.object({ even: z.int().refine((n) => n % 2 === 0), name: z.string().trim().toLowerCase() }),
  described: z.object({ city: z.string().describe("City name").meta({ examples: ["Rome"], title: "City" }) }),
  never: z.object({ no: z.never().optional(), unknown: z.unknown(), any: z.any() }),
  readonly: z.object({ tags: z.array(z.string()).readonly(), branded: z.string().brand("Id") }),
  stringbool: z.object({ flag: z.stringbool() }),
  registered: z.object({ left: Named, right: Named }),
};

const Tree = z3.lazy(() => z3.object({ value: z3.string(), left: Tree.optional(), right: Tree.optional() }));
const address = z3.object({ street: z3.string(), zip: z3.string().regex(/^\d{5}$/) });
const three = {
  strings: z3.object({ text: z3.string().min(1).max(10), email: z3.string().email(), url: z3.string().url(), uuid: z3.string().uuid() }),
  more_strings: z3.object({ cuid: z3.string().cuid(), ulid: z3.string().ulid(), nano: z3.string().nanoid(), emoji: z3.string().emoji(), base64: z3.string().base64(), jwt: z3.string().jwt() }),
  dates: z3.object({ at: z3.string().datetime(), day: z3.string().date(), time: z3.string().time(), span: z3.string().duration(), date: z3.date() }),
  network: z3.object({ ip: z3.string().ip(), cidr: z3.string().cidr() }),
  numbers: z3.object({ int: z3.number().int(), positive: z3.number().positive(), range: z3.number().min(-1).max(1), step: z3.number().multipleOf(5), big: z3.bigint() }),
  collections: z3.object({ set: z3.set(z3.string()), map: z3.map(z3.string(), z3.number()), record: z3.record(z3.string(), z3.boolean()) }),
  enum_keys: z3.object({ record: z3.record(z3.enum(["x", "y"]), z3.number()) }),
  pattern_keys: z3.object({ record: z3.record(z3.string().regex(/^k\d$/), z3.number()), short: z3.record(z3.string().min(2), z3.string()) }),
  tuples: z3.object({ pair: z3.tuple([z3.string(), z3.number()]), rest: z3.tuple([z3.boolean()]).rest(z3.string()) }),
  unions: z3.object({ plain: z3.union([z3.string(), z3.number()]), literal: z3.union([z3.literal("a"), z3.literal(2)]), nullable: z3.union([z3.string(), z3.null()]) }),
  discriminated: z3.object({ item: z3.discriminatedUnion("t", [z3.object({ t: z3.literal("a"), a: z3.string() }), z3.object({ t: z3.literal("b"), b: z3.number() })]) }),
  native_enum: z3.object({ direction: z3.nativeEnum({ Up: "UP", Down: "DOWN" }) }),
  recursive: z3.object({ tree: Tree }),
  shared: z3.object({ home: address, work: address }),
  intersection: z3.intersection(z3.object({ a: z3.string() }), z3.object({ b: z3.number() })),
  nested_intersection: z3.object({ both: z3.intersection(z3.object({ a: z3.string() }).strict(), z3.object({ b: z3.number() }).strict()) }),
  passthrough: z3.object({ a: z3.string() }).passthrough(),
  catchall: z3.object({ a: z3.string() }).catchall(z3.number()),
  effects: z3.object({ a: z3.string().transform((s) => s.length), b: z3.preprocess((v) => v, z3.number()), c: z3.string().refine(() => true) }),
  defaults: z3.object({ limit: z3.number().int().min(1).max(100).default(10), order: z3.enum(["asc", "desc"]).default("asc"), note: z3.string().nullable().default(null) }),
  odd: z3.object({ any: z3.any(), unknown: z3.unknown(), never: z3.never().optional(), undef: z3.undefined(), maybe: z3.union([z3.undefined(), z3.number()]) }),
  pipeline: z3.object({ n: z3.string().pipe(z3.coerce.number()), p: z3.promise(z3.string()), b: z3.string().brand("x"), r: z3.array(z3.string()).readonly() }),
  lookahead: z3.object({ name: z3.string().regex(/^(?!admin)[a-z]+$/), starts: z3.string().startsWith("a.b"), includes: z3.string().includes("?") }),
};

const schemas = [];
for (const [name, schema] of Object.entries(four)) {
  schemas.push({ name: `zod4_${name}`, schema: z.toJSONSchema(schema, { io: "input", unrepresentable: "any" }) });
}
for (const name of ["discriminated", "optional", "records"]) {
  schemas.push({ name: `zod4_draft7_${name}`, schema: z.toJSONSchema(four[name], { target: "draft-7", io: "output" }) });
  schemas.push({ name: `zod4_openapi_${name}`, schema: z.toJSONSchema(four[name], { target: "openapi-3.0", io: "input" }) });
}
for (const name of ["bounds", "tuples", "literals"]) {
  schemas.push({ name: `zod4_draft4_${name}`, schema: z.toJSONSchema(four[name], { target: "draft-4", io: "input" }) });
}
for (const [name, schema] of Object.entries(three)) {
  schemas.push({ name: `zod3_${name}`, schema: zodToJsonSchema(schema) });
}
for (const name of ["numbers", "unions", "tuples"]) {
  schemas.push({ name: `zod3_openapi_${name}`, schema: zodToJsonSchema(three[name], { target: "openApi3" }) });
}
process.stdout.write("[\n" + schemas.map((entry) => JSON.stringify(entry)).join(",\n") + "\n]\n");
