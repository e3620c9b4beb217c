Feature: A prompt before all prompts
  Set once, at the start or by any request: it comes before the prompts of everybody.

  Background:
    Given a server of its own

  Scenario: A request sets it for all
    When I ask for a completion:
      """
      {"prompt": " Rome\nQ: The capital of France? A:", "n_predict": 4, "temperature": 0, "system_prompt": {"prompt": "Q: The capital of Italy? A:", "anti_prompt": "Q:", "assistant_name": "A:"}}
      """
    Then the status is 200
    And the answer's "content" contains "Paris"
    And the answer's "tokens_evaluated" is 20
    When I ask for the props
    Then the answer's "user_name" is "Q:"
    And the answer's "assistant_name" is "A:"
    And the answer's "system_prompt" is "Q: The capital of Italy? A:"
    When I ask for a completion:
      """
      {"prompt": " Rome\nQ: The capital of Spain? A:", "n_predict": 4, "temperature": 0}
      """
    Then the answer's "content" contains "Madrid"
    And the answer's "tokens_cached" is 9

  Scenario: An empty one takes it away
    When I ask for a completion:
      """
      {"prompt": "a", "n_predict": 0, "system_prompt": "one two three four"}
      """
    Then the answer's "tokens_evaluated" is 5
    When I ask for a completion:
      """
      {"prompt": "a", "n_predict": 0, "system_prompt": {"prompt": ""}}
      """
    Then the answer's "tokens_evaluated" is 1
    When I ask for the props
    Then the answer's "system_prompt" is ""

  Scenario: It stays when a context loses its older half
    When I change the props:
      """
      {"system_prompt": "one two three four"}
      """
    Then the status is 200
    And the answer's "success" is true
    When I ask for a completion:
      """
      {"prompt": "The capital of France is", "n_predict": 80, "temperature": 0, "ignore_eos": true}
      """
    Then the answer's "truncated" is true
    And the answer's "tokens_predicted" is 80

  Scenario: Conversations and gaps have it, embeddings have not
    When I embed:
      """
      {"content": "Hello"}
      """
    And I change the props:
      """
      {"system_prompt": "one two three four"}
      """
    And I chat:
      """
      {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
      """
    Then the answer's "usage.prompt_tokens" is 35

  Scenario Outline: Bad input changes nothing: <body>
    When I post to "<path>" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the error's param is "<param>"
    And the error says "<message>"
    When I ask for the props
    Then the answer's "system_prompt" is ""

    Examples:
      | path        | body                                                                   | param                | message     |
      | /props      | {"system_prompt": 1}                                                   | system_prompt        | not of type |
      | /props      | {"system_prompt": {"prompt": 1}}                                       | system_prompt.prompt | not of type |
      | /completion | {"prompt": "a", "system_prompt": "b", "top_p": 2}                      | top_p                | maximum     |
      | /completion | {"prompt": "a", "system_prompt": "b", "stop": ["a"], "n_keep": -2}     | n_keep               | minimum     |
      | /completion | {"prompt": [70000], "system_prompt": "b"}                              |                      | token 70000 |
      | /completion | {"prompt": ["a", [70000]], "system_prompt": "b"}                       |                      | token 70000 |
      | /completion | {"prompt": "a", "system_prompt": "b", "id_slot": 9}                    | id_slot              | no slot 9   |
      | /completion | {"prompt": "a", "system_prompt": "b", "grammar": "root"}               | grammar              | Failed to parse grammar |

  Scenario: It can be all that is sent
    When I ask for a completion:
      """
      {"system_prompt": {"prompt": "one two three four", "anti_prompt": "User:", "assistant_name": "Bird:"}}
      """
    Then the status is 200
    And the answer's "content" is ""
    And the answer's "tokens_evaluated" is 4
    When I ask for the props
    Then the answer's "system_prompt" is "one two three four"

  Scenario: One that leaves no room is refused
    When I set a system prompt of 70 words
    Then the status is 400
    And the error's param is "system_prompt"
    And the error says "leaves no room in the context of 64"

  Scenario: Changing the props is switched on
    Given a server that answers nothing that can be switched off
    When I change the props:
      """
      {"system_prompt": "a"}
      """
    Then the status is 501
    And the error says "--props"
