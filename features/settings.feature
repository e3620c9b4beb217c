Feature: What the server is set to

  Scenario: The props
    When I ask for the props
    Then the status is 200
    And the answer's "total_slots" is 4
    And the answer's "assistant_name" is ""
    And the answer's "default_generation_settings.temperature" is 0.8
    And the answer's "default_generation_settings.n_ctx" is 512
    And the answer's "chat_template" contains "<|im_start|>"

  Scenario: The slots remember their last request
    When I ask for a completion:
      """
      {"prompt": "Remember me", "n_predict": 2, "id_slot": 2, "temperature": 0.5}
      """
    And I ask for the slots
    Then the status is 200
    And the answer's "2.prompt" is "Remember me"
    And the answer's "2.state" is 0
    And the answer's "2.temperature" is 0.5
    And the answer's "2.next_token.n_decoded" is 2

  Scenario: The slots can be hidden
    Given a server that hides its slots
    When I ask for the slots
    Then the status is 501
    And the error says "This server does not support slots endpoint."

  Scenario: The models
    When I ask for the models
    Then the status is 200
    And the answer's "data.0.id" is "smollm2"
    When I ask for the model "smollm2"
    Then the status is 200
    And the answer's "id" is "smollm2"
    When I ask for the model "another"
    Then the status is 404
    And the error says "another"

  Scenario: The document is served
    When I get "/openapi.json"
    Then the status is 200
    And the answer's "openapi" is "3.1.0"
    When I get "/openapi.yaml"
    Then the status is 200
    When I get "/docs"
    Then the status is 200
