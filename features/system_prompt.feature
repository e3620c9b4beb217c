Feature: Global system prompt
  A global system prompt, set at startup or by a request, precedes the prompts of all clients.

  Background:
    Given a server that no other feature uses

  Scenario: system_prompt in a request applies to all later requests
    When I request a completion:
      """
      {"prompt": " Rome\nQ: The capital of France? A:", "n_predict": 4, "temperature": 0, "system_prompt": {"prompt": "Q: The capital of Italy? A:", "anti_prompt": "Q:", "assistant_name": "A:"}}
      """
    Then the status is 200
    And the response's "content" contains "Paris"
    And the response's "tokens_evaluated" is 20
    When I request the props
    Then the response's "user_name" is "Q:"
    And the response's "assistant_name" is "A:"
    And the response's "system_prompt" is "Q: The capital of Italy? A:"
    When I request a completion:
      """
      {"prompt": " Rome\nQ: The capital of Spain? A:", "n_predict": 4, "temperature": 0}
      """
    Then the response's "content" contains "Madrid"
    And the response's "tokens_cached" is 9

  Scenario: an empty system_prompt removes the system prompt
    When I request a completion:
      """
      {"prompt": "a", "n_predict": 0, "system_prompt": "one two three four"}
      """
    Then the response's "tokens_evaluated" is 5
    When I request a completion:
      """
      {"prompt": "a", "n_predict": 0, "system_prompt": {"prompt": ""}}
      """
    Then the response's "tokens_evaluated" is 1
    When I request the props
    Then the response's "system_prompt" is ""

  Scenario: a context shift keeps the system prompt
    When I change the props:
      """
      {"system_prompt": "one two three four"}
      """
    Then the status is 200
    And the response's "success" is true
    When I request a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 80, "temperature": 0, "ignore_eos": true}
      """
    Then the response's "truncated" is true
    And the response's "tokens_predicted" is 80

  Scenario: chat completions include the system prompt
    When I request embeddings:
      """
      {"content": "Hello"}
      """
    And I change the props:
      """
      {"system_prompt": "one two three four"}
      """
    And I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
      """
    Then the response's "usage.prompt_tokens" is 35

  Scenario Outline: an invalid request does not change the system prompt: <body>
    When I post to "<path>" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the error's param is "<param>"
    And the error message contains "<message>"
    When I request the props
    Then the response's "system_prompt" is ""

    Examples:
      | path        | body                                                               | param                | message                 |
      | /props      | {"system_prompt": 1}                                               | system_prompt        | not of type             |
      | /props      | {"system_prompt": {"prompt": 1}}                                   | system_prompt.prompt | not of type             |
      | /completion | {"prompt": "a", "system_prompt": "b", "top_p": 2}                  | top_p                | maximum                 |
      | /completion | {"prompt": "a", "system_prompt": "b", "stop": ["a"], "n_keep": -2} | n_keep               | minimum                 |
      | /completion | {"prompt": [70000], "system_prompt": "b"}                          |                      | token 70000             |
      | /completion | {"prompt": ["a", [70000]], "system_prompt": "b"}                   |                      | token 70000             |
      | /completion | {"prompt": "a", "system_prompt": "b", "id_slot": 9}                | id_slot              | slot not found: 9       |
      | /completion | {"prompt": "a", "system_prompt": "b", "grammar": "root"}           | grammar              | Failed to parse grammar |

  Scenario: a request can set system_prompt without a prompt
    When I request a completion:
      """
      {"system_prompt": {"prompt": "one two three four", "anti_prompt": "User:", "assistant_name": "Bird:"}}
      """
    Then the status is 200
    And the response's "content" is ""
    And the response's "tokens_evaluated" is 4
    When I request the props
    Then the response's "system_prompt" is "one two three four"

  Scenario: a system prompt longer than the context is rejected
    When I set a system prompt of 70 words
    Then the status is 400
    And the error's param is "system_prompt"
    And the error message contains "leaves no room in the context of 64"

  Scenario: POST /props gets 501 without --props
    Given a server with all optional endpoints disabled
    When I change the props:
      """
      {"system_prompt": "a"}
      """
    Then the status is 501
    And the error message contains "--props"
