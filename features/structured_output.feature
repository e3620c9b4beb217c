Feature: Structured output
  Text is constrained by a JSON schema, a regular expression, or a Lark grammar.
  Tokens that are not allowed cannot be sampled.

  Scenario: /completion follows json_schema
    When I request a completion:
      """
      {"prompt": "A bird as JSON: ", "n_predict": 100, "seed": 1, "temperature": 1.2, "json_schema": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 10}, "eggs": {"type": "integer", "minimum": 1, "maximum": 12}}, "required": ["name", "eggs"], "additionalProperties": false}}
      """
    Then the status is 200
    And the response's "stopped_eos" is true
    And the response's "content" is JSON that validates against:
      """
      {"type": "object", "properties": {"name": {"maxLength": 10}, "eggs": {"minimum": 1, "maximum": 12}}, "required": ["name", "eggs"], "additionalProperties": false}
      """
    And the response's "generation_settings.json_schema.type" is "object"
    And the same request with {"n_probs": 2} gives the same text
    And streaming the same request gives the same text

  Scenario: response_format json_object produces a JSON object
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Describe Rome as a JSON object."}], "max_tokens": 200, "seed": 3, "response_format": {"type": "json_object"}, "stop": null}
      """
    Then the status is 200
    And the response's "choices.0.message.content" is JSON that validates against:
      """
      {"type": "object"}
      """

  Scenario: response_format json_schema is followed
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Which city is the capital of Italy?"}], "max_tokens": 100, "temperature": 0, "response_format": {"type": "json_schema", "json_schema": {"name": "city", "strict": true, "schema": {"type": "object", "properties": {"city": {"enum": ["Berlin", "Rome", "Paris"]}, "sure": {"type": "boolean"}}, "required": ["city", "sure"], "additionalProperties": false}}}}
      """
    Then the status is 200
    And the response's "choices.0.finish_reason" is "stop"
    And the response's "choices.0.message.content" contains "Rome"
    And the response's "choices.0.message.content" is JSON that validates against:
      """
      {"type": "object", "properties": {"city": {"enum": ["Berlin", "Rome", "Paris"]}, "sure": {"type": "boolean"}}, "required": ["city", "sure"], "additionalProperties": false}
      """

  Scenario: response_format text does not constrain the output
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."}], "max_tokens": 24, "temperature": 0, "response_format": {"type": "text"}}
      """
    Then the response's "choices.0.message.content" contains "Rome"

  Scenario: 200 completions at temperature 1.5 follow ten JSON schemas
    When I request 200 completions at temperature 1.5 with ten JSON schemas
    Then all completions that end by themselves are valid

  Scenario Outline: a json_schema keyword that cannot be enforced is listed in x-ortolan-ignored: <schema>
    When I post to "/completion" as "application/json":
      """
      {"prompt": "a", "n_predict": 1, "json_schema": <schema>}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "json_schema<pointer>"

    Examples:
      | schema                                                              | pointer               |
      | {"type": "array", "uniqueItems": true}                              | /uniqueItems          |
      | {"properties": {"a": {"not": {"const": 1}}}}                        | /properties/a/not     |
      | {"items": {"type": "string", "format": "iri"}}                      | /items/format         |
      | {"anyOf": [{"$ref": "#/nowhere"}]}                                  | /anyOf/0/%24ref       |
      | {"oneOf": [{"type": "integer"}, {"type": "number"}]}                | /oneOf                |
      | {"items": {"type": "string", "pattern": "a(?=b)"}}                  | /items/pattern        |
      | {"properties": {"a": {}, "b": {}}, "minProperties": 2}              | /minProperties        |
      | {"allOf": [{"type": "string"}, {"type": "null"}]}                   | /allOf                |

  Scenario Outline: an invalid json_schema is rejected with a JSON pointer to the error: <schema>
    When I post to "/completion" as "application/json":
      """
      {"prompt": "a", "json_schema": <schema>}
      """
    Then the status is 400
    And the error's param is "json_schema"
    And the error message contains "Failed to parse json_schema: <pointer>: "
    And the error message contains "<problem>"

    Examples:
      | schema                             | pointer         | problem              |
      | {"items": {"type": "strin"}}       | /items/type     | is not a type        |
      | {"items": {"type": 5}}             | /items/type     | 5 is not a type      |
      | {"items": {"minimum": "1"}}        | /items/minimum  | it must be a number  |
      | {"properties": {"a": 1}}           | /properties/a   | a schema must be     |

  Scenario Outline: response_format with strict rejects a keyword that cannot be enforced: <schema>
    When I post to "/v1/chat/completions" as "application/json":
      """
      {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": true, "schema": <schema>}}}
      """
    Then the status is 400
    And the error's param is "response_format"
    And the error message contains "Invalid schema for response_format: <pointer>: <problem>"

    Examples:
      | schema                                               | pointer                 | problem                                   |
      | {"properties": {"b": {"contains": {"const": 1}}}}    | /properties/b/contains  | contains cannot be enforced token by token |
      | {"properties": {"b": {"pattern": "^(?!x)a$"}}}       | /properties/b/pattern   | this pattern cannot be enforced           |
      | {"properties": {"a": {}, "b": {}}, "minProperties": 2} | /minProperties        | minProperties cannot be enforced          |

  Scenario: response_format without strict lists a keyword that cannot be enforced in x-ortolan-ignored
    When I post to "/v1/chat/completions" as "application/json":
      """
      {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"properties": {"b": {"contains": {"const": 1}}}}}}}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "response_format.json_schema.schema/properties/b/contains"

  Scenario Outline: a function without strict lists a keyword that cannot be enforced in x-ortolan-ignored: <constraint>
    When I post to "/v1/chat/completions" as "application/json":
      """
      {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "tools": [{"type": "function", "function": {"name": "good"}}, {"type": "function", "function": {"name": "bad", "parameters": {"type": "object", "properties": {"v": {<constraint>}}}}}]}
      """
    Then the status is 200
    And the header "x-ortolan-ignored" is "tools.1.function.parameters/properties/v/<keyword>"

    Examples:
      | constraint                                          | keyword       |
      | "type": "array", "contains": {"const": "a"}         | contains      |
      | "type": "object", "propertyNames": {"maxLength": 3} | propertyNames |
      | "type": "string", "pattern": "^(?!x)a$"             | pattern       |
      | "properties": {"a": {}, "b": {}}, "minProperties": 2 | minProperties |

  Scenario: a function with strict rejects a schema that cannot be enforced
    When I post to "/v1/chat/completions" as "application/json":
      """
      {"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function", "function": {"name": "bad", "strict": true, "parameters": {"type": "object", "properties": {"v": {"type": "string", "pattern": "^(?!x)a$"}}}}}]}
      """
    Then the status is 400
    And the error's param is "tools"
    And the error message contains "function 'bad': /properties/v/pattern: this pattern cannot be enforced"

  Scenario: json_schema with an unbounded integer does not generate digits forever
    When I request a completion:
      """
      {"prompt": "The digits of pi: 31415926535897932384626433832795028841971", "n_predict": 60, "temperature": 0, "json_schema": {"type": "integer"}}
      """
    Then the status is 200
    And the response's "stopped_eos" is true

  Scenario: a JSON object has only the properties that its schema declares
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Fill."}], "max_tokens": 60, "temperature": 0, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 10}}, "required": ["name"]}}}}
      """
    Then the status is 200
    And the response's "choices.0.message.content" is JSON that validates against:
      """
      {"type": "object", "properties": {"name": {"type": "string", "maxLength": 10}}, "required": ["name"], "additionalProperties": false}
      """

  Scenario Outline: an invalid response_format is rejected: <form>
    When I post to "/v1/chat/completions" as "application/json":
      """
      {"messages": [{"role": "user", "content": "a"}], "response_format": <form>}
      """
    Then the status is 400
    And the error's param is "<param>"

    Examples:
      | form                                                          | param                             |
      | {}                                                            | response_format.type              |
      | {"type": "xml"}                                               | response_format.type              |
      | {"type": "json_schema"}                                       | response_format.json_schema       |
      | {"type": "json_object", "schema": 123}                        | response_format.schema            |
      | {"type": "json_object", "schema": "{"}                        | response_format.schema            |
      | {"type": "json_object", "schema": {"type": "strin"}}          | response_format                   |
      | {"type": "json_schema", "json_schema": {"name": "a", "schema": []}} | response_format.json_schema.schema |

  Scenario: 100 chat completions follow strict JSON schemas
    When I request 100 chat completions with strict schemas at temperature 1
    Then each message is valid, and at least 9 of 10 differ

  Scenario: /completion follows regex
    When I request a completion:
      """
      {"prompt": "My phone number is", "n_predict": 40, "seed": 4, "temperature": 1.5, "regex": " [0-9]{3}-[0-9]{4}"}
      """
    Then the response's "content" matches " [0-9]{3}-[0-9]{4}"
    And the response's "stopped_eos" is true
    And the response's "generation_settings.regex" contains "[0-9]"

  Scenario: /completion follows lark
    When I request a completion:
      """
      {"prompt": "My favourite numbers:", "n_predict": 40, "seed": 4, "temperature": 1.5, "lark": "start: number \",\" number\nnumber: / [1-9][0-9]?/"}
      """
    Then the response's "content" matches " [1-9][0-9]?, [1-9][0-9]?"

  Scenario: a chat completion follows grammar
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Is water wet?"}], "max_tokens": 10, "grammar": "root ::= \"yes\" | \"no\""}
      """
    Then the response's "choices.0.message.content" is one of "yes" or "no"

  Scenario Outline: a chat completion follows every form of a constraint: <field>
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Yes or no? Give me a."}], "max_tokens": 30, "temperature": 0, <field>}
      """
    Then the status is 200
    And the response's "choices.0.finish_reason" is "stop"
    And the response's "choices.0.message.content" matches '<text>'

    Examples:
      | field                                                              | text           |
      | "response_format": {"type": "json_object", "schema": {"enum": [{"a": 1}, {"a": 2}]}} | [^a-z]*"a":[^0-9]*[12][^0-9]* |
      | "response_format": {"type": "json_schema", "json_schema": {"schema": {"const": "yes"}}} | "yes"       |
      | "response_format": {"type": "json_schema", "schema": {"const": "yes"}} | "yes"      |
      | "json_schema": {"const": "yes"}                                    | "yes"          |
      | "json_schema": "{\\"const\\": \\"yes\\"}", "max_tokens": -1              | "yes"          |
      | "guided_json": {"const": "yes"}                                    | "yes"          |
      | "guided_regex": "[0-9]{3}"                                         | [0-9]{3}       |
      | "guided_choice": ["yes.", "no (never)", "a&b"]                     | yes[.]\|no [(]never[)]\|a&b |
      | "guided_grammar": "root ::= \\"yes\\" \| \\"no\\""                      | yes\|no        |
      | "guided_grammar": "start: \\"yes\\" \| \\"no\\""                        | yes\|no        |
      | "ebnf": "root ::= \\"yes\\" \| \\"no\\""                                | yes\|no        |
      | "structured_outputs": {"choice": ["yes", "no"]}                    | yes\|no        |
      | "structured_outputs": {"regex": "[0-9]{3}"}                        | [0-9]{3}       |
      | "structured_outputs": {"json": {"const": "yes"}}                   | "yes"          |
      | "structured_outputs": {"grammar": "root ::= \\"yes\\""}              | yes            |

  Scenario Outline: two constraints in one request are rejected: <first> and <second>
    When I post to "/v1/chat/completions" as "application/json":
      """
      {"messages": [{"role": "user", "content": "a"}], <fields>}
      """
    Then the status is 400
    And the error's param is "<second>"
    And the error message contains "<first> and <second> cannot both be set"

    Examples:
      | first           | second                    | fields |
      | response_format | guided_choice             | "response_format": {"type": "json_object"}, "guided_choice": ["a"] |
      | grammar         | json_schema               | "grammar": "root ::= [a]", "json_schema": {} |
      | guided_regex    | structured_outputs.choice | "guided_regex": "a", "structured_outputs": {"choice": ["a"]} |
      | tools           | guided_choice             | "guided_choice": ["a"], "tools": [{"type": "function", "function": {"name": "a"}}] |

  Scenario Outline: an invalid constraint is rejected: <name>: <problem>
    When I post to "/completion" as "application/json":
      """
      {"prompt": "a", <field>}
      """
    Then the status is 400
    And the error's param is "<name>"
    And the error message contains "<problem>"

    Examples:
      | name        | field                                        | problem                                                  |
      | regex       | "regex": "a(b"                               | Failed to parse regex: character 2: unclosed group       |
      | regex       | "regex": "é[z-a]"                            | Failed to parse regex: character 3: invalid character class range |
      | regex       | "regex": "(?=a)b"                            | Failed to parse regex: character 1: look-around          |
      | lark        | "lark": "begin: /a/"                         | Failed to parse lark:                                    |
      | regex       | "regex": "a{1000000000}"                     | 1000000000 repetitions are more than 100000              |
      | regex       | "regex": "((a?){9000}b{9000}){9000}"         | repetitions are more than 100000                         |
      | grammar     | "grammar": "root ::= ((\\"a\\"{2000}){2000})"  | 4000000 repetitions are more than 100000                 |
      | lark        | "lark": "start: A\\nA: \\"a\\"{1000000000}"      | 1000000000 repetitions are more than 100000              |
      | lark        | "lark": "start: A\\nA: B B B B B B B B B B\\nB: C C C C C C C C C C\\nC: D D D D D D D D D D\\nD: E E E E E E E E E E\\nE: \\"a\\"?" | 10000 optional parts of regular expressions are more than 4000 |
      | regex       | "regex": 7                                   | regex                                                    |
      | json_schema | "json_schema": "object"                      | json_schema                                              |
      | json_schema | "grammar": "root ::= [a]", "json_schema": {} | grammar and json_schema cannot both be set               |
      | lark        | "regex": "a", "lark": "start: /a/"           | regex and lark cannot both be set                        |
